"""Stub until the kernels land."""
def usable(net, x): return False
def forward_features(net, x): raise RuntimeError
