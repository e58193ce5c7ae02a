"""What a user could run instead of the cascade: the same multi-exit model in PyTorch, or as one ONNX graph.

`edgeexit bench` finds these through the entry-point group `edgeexit.rivals`. Each is made of the very graphs
of a bundle, answers a batch with every sample leaving where the cascade let it leave, and computes no policy:
what is compared is the running, not the deciding.
"""
