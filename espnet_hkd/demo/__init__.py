"""The page to try a model in a browser: `espnet-hkd demo`, with the extra `page`."""
