"""The build configuration: one YAML file. Every key has its type, description and default here and nowhere else.

`docs/config.md` is generated from the descriptions (`python -m schemas.reference`).
"""

from schemas.config.build import MAX_SHARDS, NOT_FINGERPRINTED, BuildConfig
from schemas.config.cleaning import CleaningConfig
from schemas.config.engines import (
    DummyEngine,
    Engine,
    OpenAiEngine,
    PriceConfig,
    ReplayEngine,
    RequestsConfig,
    VllmEngine,
    WorkersConfig,
)
from schemas.config.generation import GenerationConfig, HistoryConfig, RulesConfig
from schemas.config.limits import LimitsConfig
from schemas.config.mining import AnnotationConfig, MiningConfig
from schemas.config.publishing import CardConfig, PublishConfig
from schemas.config.sampling import Correlation, Marginal, SamplingConfig, SplitsConfig, apportion
from schemas.config.sources import (
    PACKAGED,
    PACKAGED_SPACES,
    DumpSource,
    MinedSource,
    SeedsConfig,
    ThreadField,
    ThreadsSource,
)
from schemas.config.users import ActiveRange, KindsConfig, UsersConfig
from schemas.config.verification import JudgeEngine, VerificationConfig

__all__ = [
    "MAX_SHARDS",
    "NOT_FINGERPRINTED",
    "PACKAGED",
    "PACKAGED_SPACES",
    "ActiveRange",
    "AnnotationConfig",
    "BuildConfig",
    "CardConfig",
    "CleaningConfig",
    "Correlation",
    "DummyEngine",
    "DumpSource",
    "Engine",
    "GenerationConfig",
    "HistoryConfig",
    "JudgeEngine",
    "KindsConfig",
    "LimitsConfig",
    "Marginal",
    "MinedSource",
    "MiningConfig",
    "OpenAiEngine",
    "PriceConfig",
    "PublishConfig",
    "ReplayEngine",
    "RequestsConfig",
    "RulesConfig",
    "SamplingConfig",
    "SeedsConfig",
    "SplitsConfig",
    "ThreadField",
    "ThreadsSource",
    "UsersConfig",
    "VerificationConfig",
    "VllmEngine",
    "WorkersConfig",
    "apportion",
]
