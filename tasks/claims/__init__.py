"""Labels by construction: claims made by rules from the sentences of a passage, with known labels.

A claim is entailed, contradicted or left undecided by its passage, because of how it was made.
``patterns.yaml`` holds the words the rules know, ``wordings.yaml`` the instructions.
"""
