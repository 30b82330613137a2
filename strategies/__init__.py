"""Search strategies for NNI's experiments, and the parts that they are composed of."""

# Must be imported before any module of nni.nas.oneshot, which would otherwise hide the classes of NNI's strategies.
import nni.nas.strategy  # noqa: F401
