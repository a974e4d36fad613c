"""
The networks, as they are published to the Hub.

The files of this folder are published beside the weights and import nothing of the rest of the package.
"""
