"""Tuning a language model, whatever is tuned: records, encoding, one step on some parameters.

Read ``records.py`` first, then ``fine_tuning.py``; ``upper_layers.py`` trains on stored states.
"""
