"""stand-in"""
import hashlib
def fingerprint(*tensors):
    h = hashlib.sha256()
    for t in tensors: h.update(f"{t.dtype}{tuple(t.shape)}".encode()); h.update(t.contiguous().numpy().tobytes())
    return h.hexdigest()[:16]
