"""Shared computations that plugins name as their needs, one per module, and the types that users of them receive."""

from sounding.batch import AttentionCall, Batch, LinearPair, Tapped
from sounding.curvature.curved import Curved, Facts
from sounding.keeping.past import Course, Line
from sounding.keeping.series import Series
from sounding.opening import Opened
from sounding.passes.angles import Angles
from sounding.passes.attention import Attention, AttentionShape
from sounding.passes.attention_statistics import AttentionStatistics
from sounding.passes.attention_weights import attentions, heads_told_by
from sounding.passes.checkpoints import Checkpoints
from sounding.passes.class_moments import FeatureMoments, SplitMoments
from sounding.passes.curvature import Curvature
from sounding.passes.curvature_run import CurvatureRun, Directions, Kind, Solved
from sounding.passes.elsewhere import Elsewhere, mixed, offset
from sounding.passes.equilibrium import Equilibrium, angle_of, decay_rate, equilibrium_of
from sounding.passes.gradients import Gradients
from sounding.passes.head import Head
from sounding.passes.input_projection import InputProjection, Swapped, projection_of
from sounding.passes.layer_grams import LayerGram, LayerGrams
from sounding.passes.layer_moments import LayerMoments
from sounding.passes.layers import Layer, layers_of
from sounding.passes.likeness import LIKENESS_METRICS, Likeness
from sounding.passes.linear_path import PATH_METRICS, LinearPath
from sounding.passes.linearisation import Linearisation
from sounding.passes.logit_statistics import LogitStatistics
from sounding.passes.loss_gradients import LossGradients
from sounding.passes.magnitudes import Magnitude, Magnitudes
from sounding.passes.model import Model
from sounding.passes.optimizer import Group, Optimizer
from sounding.passes.other import Other
from sounding.passes.pair import Moments, Pair
from sounding.passes.past import History, Logs, Past
from sounding.passes.preconditioner import StoredOptimizer
from sounding.passes.predictions import Predictions
from sounding.passes.rates import Rates, rates_of, updates_between
from sounding.passes.representations import Representations
from sounding.passes.responses import Responses
from sounding.passes.sample import Sample, sample_of
from sounding.passes.scale_invariance import Invariance, ScaleInvariance
from sounding.passes.spectral import SpectralNorms, Top
from sounding.passes.stability import border_of
from sounding.passes.surroundings import Around
from sounding.passes.symmetries import Symmetries
from sounding.passes.tangent_kernel import KERNEL_METRICS, TangentKernel
from sounding.passes.token_ranks import TokenRanks
from sounding.passes.weights import Weights
from sounding.recipe import Recipe

__all__ = [
    "KERNEL_METRICS",
    "LIKENESS_METRICS",
    "PATH_METRICS",
    "Angles",
    "Around",
    "Attention",
    "AttentionCall",
    "AttentionShape",
    "AttentionStatistics",
    "Batch",
    "Checkpoints",
    "Course",
    "Curvature",
    "CurvatureRun",
    "Curved",
    "Directions",
    "Elsewhere",
    "Equilibrium",
    "Facts",
    "FeatureMoments",
    "Gradients",
    "Group",
    "Head",
    "History",
    "InputProjection",
    "Invariance",
    "Kind",
    "Layer",
    "LayerGram",
    "LayerGrams",
    "LayerMoments",
    "Likeness",
    "Line",
    "LinearPair",
    "LinearPath",
    "Linearisation",
    "LogitStatistics",
    "Logs",
    "LossGradients",
    "Magnitude",
    "Magnitudes",
    "Model",
    "Moments",
    "Opened",
    "Optimizer",
    "Other",
    "Pair",
    "Past",
    "Predictions",
    "Rates",
    "Recipe",
    "Representations",
    "Responses",
    "Sample",
    "ScaleInvariance",
    "Series",
    "Solved",
    "SpectralNorms",
    "SplitMoments",
    "StoredOptimizer",
    "Swapped",
    "Symmetries",
    "TangentKernel",
    "Tapped",
    "TokenRanks",
    "Top",
    "Weights",
    "angle_of",
    "attentions",
    "border_of",
    "decay_rate",
    "equilibrium_of",
    "heads_told_by",
    "layers_of",
    "mixed",
    "offset",
    "projection_of",
    "rates_of",
    "sample_of",
    "updates_between",
]
