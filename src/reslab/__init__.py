"""reslab: a workbench for deep residual networks.

Build       create_model, list_models, load_weights
Train       train: one call, or reslab.training.fit in a loop of your own
Use         load: predict and evaluate
Look        diagnose, watch: what is wrong with any nn.Module, and pictures of its gradient flow

The packages, from the bottom up; each exports its public names:

records     what runs, diagnoses and studies leave behind
layers      shortcuts, connections and norms of 1, 2 or 3 dimensions
models      residual networks, their plain twins, and the catalog
weights     third-party weights, and the bundle on disk
data        sources, transforms, loaders
tasks       what a network is trained for
training    fit, optimisers, schedules, checkpoints
report      figures and pages, from records only
probe       diagnose, watch and the verdict
run         a run from its config to its folder, and back
studies     questions answered by many runs
cli         the commands
"""

from typing import TYPE_CHECKING

from reslab._lazy import lazy_names
from reslab.errors import RequestError as RequestError
from reslab.errors import WorkFailed as WorkFailed
from reslab.version import __version__ as __version__

if TYPE_CHECKING:
    from reslab.models.catalog import create_model as create_model
    from reslab.models.catalog import list_models as list_models
    from reslab.probe.diagnosis import diagnose as diagnose
    from reslab.probe.training import watch as watch
    from reslab.run.load import load as load
    from reslab.run.train import train as train
    from reslab.weights.load import load_weights as load_weights

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "models.catalog": ("create_model", "list_models"),
        "probe.diagnosis": ("diagnose",),
        "probe.training": ("watch",),
        "run.load": ("load",),
        "run.train": ("train",),
        "weights.load": ("load_weights",),
    },
    here={"RequestError": RequestError, "WorkFailed": WorkFailed, "__version__": __version__},
)
