"""The four losses of CRKD over the shared bird's-eye view, each a small module; as the released code computes them.

Teacher maps are constants: callers compute them without gradient.
"""
