"""Cascade: an in-process workflow engine for asyncio and trio.

Plain functions with `@task` build a tree of lazy results when called; `run(tree)` computes it.
"""

from cascade.amounts import Rate
from cascade.cache import CachePolicy, FileExistenceCache, Hit, InMemoryCache
from cascade.compiler import BlueprintBuilder, disassemble
from cascade.constraints import ConstraintManager, ConstraintStatistics, GlobalConstraint
from cascade.description import to_json
from cascade.engine import Engine, EngineStatistics, run, run_async
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
    TaskRetrying,
    TaskSkipped,
    TaskStalled,
)
from cascade.executor import Executor, LocalExecutor
from cascade.expressions import (
    Jump,
    JumpSelector,
    LazyResult,
    MappedLazyResult,
    Router,
    TailCall,
)
from cascade.flow import bind, pipeline, select_jump, sequence
from cascade.graph import BuiltGraph, Edge, Graph, Node, build_graph
from cascade.inputs import Env, Param
from cascade.interpreter import GraphExecutionStrategy
from cascade.logs import log_events
from cascade.picture import Picture, visualize
from cascade.plan import parameters
from cascade.progress import Progress
from cascade.records import Recording, chrome_trace, event_to_json, record
from cascade.report import report
from cascade.resources import ResourceDefinition, inject, resource
from cascade.retry import RetryPolicy
from cascade.solver import ExecutionPlan, NativeSolver, Solver
from cascade.state import InMemoryStateBackend, StateBackend
from cascade.task import Task, task
from cascade.vm import Blueprint, VirtualMachine, VMExecutionStrategy

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
    "ExecutionPlan",
    "Executor",
    "FileExistenceCache",
    "GlobalConstraint",
    "Graph",
    "GraphExecutionStrategy",
    "Hit",
    "InMemoryCache",
    "InMemoryStateBackend",
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
    "TailCall",
    "TargetNotFoundError",
    "Task",
    "TaskBlocked",
    "TaskEvent",
    "TaskExecutionFinished",
    "TaskExecutionStarted",
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
    "inject",
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
    "visualize",
]
