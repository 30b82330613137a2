"""Search strategies for NNI's experiments, and the parts that they are composed of."""

# Must precede every module of nni.nas.oneshot: imported first, those hide the classes of NNI's own strategies.
import nni.nas.strategy  # noqa: F401
