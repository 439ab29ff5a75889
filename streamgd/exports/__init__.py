"""Models for other programs: a file for each format, and nothing else that knows it.

onnx      a graph for onnxruntime and its like: columns in, predictions out
sklearn   a fitted scikit-learn Pipeline
json      coefficients to predict by hand
"""
