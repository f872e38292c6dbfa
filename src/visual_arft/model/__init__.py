"""One vision-language model: its weights, its tokenizer and how a prompt becomes token ids.

The policy that samples and the trainer that updates share it, so it stands below both.
"""
