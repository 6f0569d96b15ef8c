"""The axis that a batch is spread over: shares and wholes.

Imports nothing of ours.
"""

AXIS = "batch"
