"""From audio to text with token times: the Recognizer and its records."""

from espnet_hkd.recognize.recognizer import Recognizer
from espnet_hkd.speech.records import Firing, TokenTime, Transcript, WordTime

__all__ = ["Firing", "Recognizer", "TokenTime", "Transcript", "WordTime"]
