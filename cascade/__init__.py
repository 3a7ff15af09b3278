"""Cascade: an in-process workflow engine for asyncio and trio.

Plain functions with `@task` build a tree of lazy results when called; `run(tree)` computes it.
"""

from cascade.amounts import Rate
from cascade.compiler import BlueprintBuilder, disassemble
from cascade.core.interpreter import GraphExecutionStrategy
from cascade.core.outlet import Item
from cascade.core.state import InMemoryStateBackend, StateBackend
from cascade.core.stream import Stream
from cascade.engine import Engine, EngineStatistics, VirtualMachine, run, run_async
from cascade.errors import (
    CacheKeyError,
    CascadeError,
    CycleError,
    DeadlockError,
    DependencyMissingError,
    JumpKeyError,
    JumpNotBoundError,
    MissingParameterError,
    ResourceNotFoundError,
    RouteNotFoundError,
    StaticGraphError,
    StepLimitError,
    TargetNotFoundError,
    TaskTimeoutError,
    VerifyError,
)
from cascade.events import (
    Event,
    MessageBus,
    ResourceAcquired,
    ResourceReleased,
    RunFinished,
    RunStarted,
    TaskBlocked,
    TaskEvent,
    TaskExecutionFinished,
    TaskExecutionStarted,
    TaskRecovered,
    TaskRetrying,
    TaskSkipped,
    TaskStalled,
)
from cascade.executors.executor import Executor, LocalExecutor
from cascade.graph.nodes import BuiltGraph, Edge, Graph, Node, build_graph
from cascade.graph.plan import parameters
from cascade.graph.solver import ExecutionPlan, NativeSolver, Solver
from cascade.limits.constraints import ConstraintManager, ConstraintStatistics, GlobalConstraint
from cascade.live.progress import Progress
from cascade.logs import log_events
from cascade.pictures.description import to_json
from cascade.pictures.picture import Picture, visualize
from cascade.reports.records import Recording, chrome_trace, event_to_json, record
from cascade.reports.report import report
from cascade.vm import Blueprint, VMExecutionStrategy
from cascade.workflow.cache import CachePolicy, FileExistenceCache, Hit, InMemoryCache
from cascade.workflow.expressions import (
    Jump,
    JumpSelector,
    LazyResult,
    MappedLazyResult,
    Router,
    TailCall,
    lazily,
    unmapped,
)
from cascade.workflow.flow import bind, pipeline, select_jump, sequence
from cascade.workflow.groups import first, group
from cascade.workflow.inputs import Env, Param
from cascade.workflow.outcome import Outcome
from cascade.workflow.resources import Execution, ResourceDefinition, inject, resource
from cascade.workflow.retry import RetryPolicy
from cascade.workflow.task import Task, task

__all__ = [
    "Blueprint",
    "BlueprintBuilder",
    "BuiltGraph",
    "CacheKeyError",
    "CachePolicy",
    "CascadeError",
    "ConstraintManager",
    "ConstraintStatistics",
    "CycleError",
    "DeadlockError",
    "DependencyMissingError",
    "Edge",
    "Engine",
    "EngineStatistics",
    "Env",
    "Event",
    "Execution",
    "ExecutionPlan",
    "Executor",
    "FileExistenceCache",
    "GlobalConstraint",
    "Graph",
    "GraphExecutionStrategy",
    "Hit",
    "InMemoryCache",
    "InMemoryStateBackend",
    "Item",
    "Jump",
    "JumpKeyError",
    "JumpNotBoundError",
    "JumpSelector",
    "LazyResult",
    "LocalExecutor",
    "MappedLazyResult",
    "MessageBus",
    "MissingParameterError",
    "NativeSolver",
    "Node",
    "Outcome",
    "Param",
    "Picture",
    "Progress",
    "Rate",
    "Recording",
    "ResourceAcquired",
    "ResourceDefinition",
    "ResourceNotFoundError",
    "ResourceReleased",
    "RetryPolicy",
    "RouteNotFoundError",
    "Router",
    "RunFinished",
    "RunStarted",
    "Solver",
    "StateBackend",
    "StaticGraphError",
    "StepLimitError",
    "Stream",
    "TailCall",
    "TargetNotFoundError",
    "Task",
    "TaskBlocked",
    "TaskEvent",
    "TaskExecutionFinished",
    "TaskExecutionStarted",
    "TaskRecovered",
    "TaskRetrying",
    "TaskSkipped",
    "TaskStalled",
    "TaskTimeoutError",
    "VMExecutionStrategy",
    "VerifyError",
    "VirtualMachine",
    "bind",
    "build_graph",
    "chrome_trace",
    "disassemble",
    "event_to_json",
    "first",
    "group",
    "inject",
    "lazily",
    "log_events",
    "parameters",
    "pipeline",
    "record",
    "report",
    "resource",
    "run",
    "run_async",
    "select_jump",
    "sequence",
    "task",
    "to_json",
    "unmapped",
    "visualize",
]

# Tracebacks, pickles and `to_json` say where a user finds a class, not where it is defined.
for _public in [globals()[name] for name in __all__]:
    if isinstance(_public, type):
        _public.__module__ = __name__
