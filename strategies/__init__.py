"""How to search: strategies that NNI's experiments run, and what they are composed of."""

# Before any module of nni.nas.oneshot, which imported first leaves NNI's own strategies without their classes.
import nni.nas.strategy  # noqa: F401
