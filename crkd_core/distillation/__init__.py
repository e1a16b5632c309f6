"""The four losses of CRKD over the shared bird's-eye view, and the distiller that composes them.

Each loss is a small module and computes as the released code does or as it was meant, see
``crkd_core.config.DistillationConfig``. Teacher maps are constants: callers compute them without gradient.
"""
