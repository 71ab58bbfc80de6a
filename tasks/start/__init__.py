"""From a folder of documents to a profile (``make start``), and what its run will give and cost
(``make plan``).
"""
