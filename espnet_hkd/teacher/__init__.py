"""The teacher: what a pre-trained language model says of the transcripts."""
