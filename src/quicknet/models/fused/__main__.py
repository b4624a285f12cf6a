"""`python -m quicknet.models.fused`: build the kernels now and say in one line what came of it."""

from quicknet.models.fused import status

print(status())
