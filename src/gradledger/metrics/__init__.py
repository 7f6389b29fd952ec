"""What a model is worth: loss and metrics of a task, measured without disturbing the training of it."""

from gradledger.metrics.classification import ClassificationMetrics as ClassificationMetrics
from gradledger.metrics.classification import classification_metrics as classification_metrics
from gradledger.metrics.evaluation import Evaluation as Evaluation
from gradledger.metrics.evaluation import Task as Task
from gradledger.metrics.evaluation import Uncounted as Uncounted
from gradledger.metrics.evaluation import evaluate as evaluate
from gradledger.metrics.evaluation import import_torchmetrics as import_torchmetrics
from gradledger.metrics.language import LanguageMetrics as LanguageMetrics
from gradledger.metrics.leakage import Leakage as Leakage
from gradledger.metrics.leakage import find_leakage as find_leakage
from gradledger.metrics.regression import RegressionMetrics as RegressionMetrics
from gradledger.metrics.regression import regression_metrics as regression_metrics
