//! The job language's types: their fields, defaults, and what Borealis does with each. A table, no code to run.

/// A type such as `Process`.
pub(crate) struct StructType {
    pub(crate) name: &'static str,
    pub(crate) fields: &'static [FieldType],
}

/// A field of a type.
pub(crate) struct FieldType {
    pub(crate) name: &'static str,
    pub(crate) ty: Type,
    pub(crate) presence: Presence,
    pub(crate) support: Support,
}

/// What a field holds.
#[derive(Clone, Copy)]
pub(crate) enum Type {
    Text,
    Int,
    /// A whole number of bytes: a fraction is rounded up.
    Bytes,
    Float,
    Bool,
    OneOf(&'static [&'static str]),
    /// One of these; a dict is taken for the first.
    Struct(&'static [&'static StructType]),
    List(&'static Type),
    /// From text to text.
    Map,
}

/// Whether a field must be set.
#[derive(Clone, Copy)]
pub(crate) enum Presence {
    /// With an example for the hint.
    Required(&'static str),
    Optional,
    Default(Literal),
}

/// A default.
#[derive(Clone, Copy)]
pub(crate) enum Literal {
    Int(i64),
    Bool(bool),
    /// May be a template.
    Text(&'static str),
}

/// What happens to a field that is set.
#[derive(Clone, Copy)]
pub(crate) enum Support {
    Honoured,
    /// The job runs without it; the sentence says what that means.
    Warned(&'static str),
    /// Running without it would be wrong.
    Refused(&'static str),
}

impl StructType {
    pub(crate) fn field(&self, name: &str) -> Option<&'static FieldType> {
        self.fields.iter().find(|field| field.name == name)
    }
}

const fn field(name: &'static str, ty: Type, presence: Presence) -> FieldType {
    FieldType { name, ty, presence, support: Support::Honoured }
}
const fn required(name: &'static str, ty: Type, example: &'static str) -> FieldType {
    field(name, ty, Presence::Required(example))
}
const fn optional(name: &'static str, ty: Type) -> FieldType {
    field(name, ty, Presence::Optional)
}
const fn default(name: &'static str, ty: Type, literal: Literal) -> FieldType {
    field(name, ty, Presence::Default(literal))
}
const fn warned(name: &'static str, ty: Type, why: &'static str) -> FieldType {
    FieldType { name, ty, presence: Presence::Optional, support: Support::Warned(why) }
}
const fn refused(name: &'static str, ty: Type, why: &'static str) -> FieldType {
    FieldType { name, ty, presence: Presence::Optional, support: Support::Refused(why) }
}

use Literal as L;
use Type::{Bool, Bytes, Float, Int, List, Map, OneOf, Struct, Text};

pub(crate) static ROTATE_POLICY: StructType = StructType {
    name: "RotatePolicy",
    fields: &[default("log_size", Bytes, L::Int(100 << 20)), default("backups", Int, L::Int(5))],
};

pub(crate) static LOGGER: StructType = StructType {
    name: "Logger",
    fields: &[
        default("destination", OneOf(&["file", "console", "both", "none"]), L::Text("file")),
        default("mode", OneOf(&["standard", "rotate"]), L::Text("standard")),
        optional("rotate", Struct(&[&ROTATE_POLICY])),
    ],
};

pub(crate) static RESOURCES: StructType = StructType {
    name: "Resources",
    fields: &[
        required("cpu", Float, "cpu=0.5"),
        required("ram", Bytes, "ram=128*MB"),
        required("disk", Bytes, "disk=128*MB"),
        default("gpu", Int, L::Int(0)),
    ],
};

pub(crate) static PROCESS: StructType = StructType {
    name: "Process",
    fields: &[
        required("name", Text, "name='web'"),
        required("cmdline", Text, "cmdline='./run.sh'"),
        default("max_failures", Int, L::Int(1)),
        default("daemon", Bool, L::Bool(false)),
        default("ephemeral", Bool, L::Bool(false)),
        default("min_duration", Int, L::Int(5)),
        default("final", Bool, L::Bool(false)),
        optional("logger", Struct(&[&LOGGER])),
        warned("resources", Struct(&[&RESOURCES]), "limits are set for the whole task, not per process"),
    ],
};

pub(crate) static CONSTRAINT: StructType =
    StructType { name: "Constraint", fields: &[optional("order", List(&Text))] };

const AN_EXAMPLE_OF_RESOURCES: &str = "resources=Resources(cpu=0.5, ram=128*MB, disk=128*MB)";

pub(crate) static TASK: StructType = StructType {
    name: "Task",
    fields: &[
        default("name", Text, L::Text("{{processes[0].name}}")),
        required(
            "processes",
            List(&Struct(&[&PROCESS])),
            "processes=[Process(name='web', cmdline='./run.sh')]",
        ),
        optional("constraints", List(&Struct(&[&CONSTRAINT]))),
        required("resources", Struct(&[&RESOURCES]), AN_EXAMPLE_OF_RESOURCES),
        default("max_failures", Int, L::Int(1)),
        default("max_concurrency", Int, L::Int(0)),
        default("finalization_wait", Int, L::Int(30)),
        optional("user", Text),
        // Ours: the number that a port has wherever the task runs; 0 = one that the scheduler gives.
        optional("ports", Map),
    ],
};

pub(crate) static METADATA: StructType = StructType {
    name: "Metadata",
    fields: &[required("key", Text, "key='team'"), required("value", Text, "value='search'")],
};

pub(crate) static QUEUE_STRATEGY: StructType =
    StructType { name: "QueueUpdateStrategy", fields: &[optional("batch_size", Int)] };
pub(crate) static BATCH_STRATEGY: StructType = StructType {
    name: "BatchUpdateStrategy",
    fields: &[optional("batch_size", Int), optional("autopause_after_batch", Bool)],
};
pub(crate) static VARIABLE_STRATEGY: StructType = StructType {
    name: "VariableBatchUpdateStrategy",
    fields: &[
        required("batch_sizes", List(&Int), "batch_sizes=[1, 5, 10]"),
        optional("autopause_after_batch", Bool),
    ],
};
pub(crate) static UPDATE_CONFIG: StructType = StructType {
    name: "UpdateConfig",
    fields: &[
        optional("batch_size", Int),
        optional("watch_secs", Int),
        optional("max_per_shard_failures", Int),
        optional("max_total_failures", Int),
        optional("rollback_on_failure", Bool),
        optional("wait_for_batch_completion", Bool),
        optional("pulse_interval_secs", Int),
        optional("sla_aware", Bool),
        optional("update_strategy", Struct(&[&QUEUE_STRATEGY, &BATCH_STRATEGY, &VARIABLE_STRATEGY])),
    ],
};

pub(crate) static HTTP_HEALTH_CHECKER: StructType = StructType {
    name: "HttpHealthChecker",
    fields: &[
        optional("endpoint", Text),
        optional("expected_response", Text),
        optional("expected_response_code", Int),
    ],
};
pub(crate) static SHELL_HEALTH_CHECKER: StructType = StructType {
    name: "ShellHealthChecker",
    fields: &[required("shell_command", Text, "shell_command='./check.sh'")],
};
pub(crate) static HEALTH_CHECKER_CONFIG: StructType = StructType {
    name: "HealthCheckerConfig",
    fields: &[
        optional("http", Struct(&[&HTTP_HEALTH_CHECKER])),
        optional("shell", Struct(&[&SHELL_HEALTH_CHECKER])),
    ],
};
pub(crate) static HEALTH_CHECK_CONFIG: StructType = StructType {
    name: "HealthCheckConfig",
    fields: &[
        optional("health_checker", Struct(&[&HEALTH_CHECKER_CONFIG])),
        optional("initial_interval_secs", Float),
        optional("interval_secs", Float),
        optional("max_consecutive_failures", Int),
        optional("min_consecutive_successes", Int),
        optional("timeout_secs", Float),
    ],
};

pub(crate) static HTTP_LIFECYCLE_CONFIG: StructType = StructType {
    name: "HttpLifecycleConfig",
    fields: &[
        optional("port", Text),
        optional("graceful_shutdown_endpoint", Text),
        optional("shutdown_endpoint", Text),
        optional("graceful_shutdown_wait_secs", Int),
        optional("shutdown_wait_secs", Int),
    ],
};
pub(crate) static LIFECYCLE_CONFIG: StructType =
    StructType { name: "LifecycleConfig", fields: &[optional("http", Struct(&[&HTTP_LIFECYCLE_CONFIG]))] };

pub(crate) static ANNOUNCER: StructType = StructType {
    name: "Announcer",
    fields: &[
        default("primary_port", Text, L::Text("http")),
        optional("portmap", Map),
        optional("zk_path", Text),
    ],
};
pub(crate) static PARTITION_POLICY: StructType = StructType {
    name: "PartitionPolicy",
    fields: &[default("reschedule", Bool, L::Bool(true)), default("delay_secs", Int, L::Int(0))],
};
/// Ours: hosts that come first.
pub(crate) static PREFERENCE: StructType = StructType {
    name: "Preference",
    fields: &[
        required("attribute", Text, "attribute='zone'"),
        required("value", Text, "value='a', with all that a constraint may say"),
        default("weight", Int, L::Int(50)),
    ],
};
/// Ours: how tasks are spread.
pub(crate) static SPREAD: StructType = StructType {
    name: "Spread",
    fields: &[required("attribute", Text, "attribute='rack'"), optional("targets", Map)],
};
pub(crate) static PERCENTAGE_SLA: StructType = StructType {
    name: "PercentageSlaPolicy",
    fields: &[optional("percentage", Float), optional("duration_secs", Int)],
};
pub(crate) static COUNT_SLA: StructType =
    StructType { name: "CountSlaPolicy", fields: &[optional("count", Int), optional("duration_secs", Int)] };
pub(crate) static COORDINATOR_SLA: StructType = StructType {
    name: "CoordinatorSlaPolicy",
    fields: &[optional("coordinator_url", Text), optional("status_key", Text)],
};
pub(crate) static PARAMETER: StructType =
    StructType { name: "Parameter", fields: &[optional("name", Text), optional("value", Text)] };
pub(crate) static DOCKER: StructType = StructType {
    name: "Docker",
    fields: &[optional("image", Text), optional("parameters", List(&Struct(&[&PARAMETER])))],
};
pub(crate) static CONTAINER: StructType =
    StructType { name: "Container", fields: &[optional("docker", Struct(&[&DOCKER]))] };
pub(crate) static DOCKER_IMAGE: StructType =
    StructType { name: "DockerImage", fields: &[optional("name", Text), optional("tag", Text)] };
pub(crate) static APPC_IMAGE: StructType =
    StructType { name: "AppcImage", fields: &[optional("name", Text), optional("image_id", Text)] };
pub(crate) static VOLUME: StructType = StructType {
    name: "Volume",
    fields: &[
        optional("container_path", Text),
        optional("host_path", Text),
        optional("mode", OneOf(&["RO", "RW"])),
    ],
};
pub(crate) static MESOS: StructType = StructType {
    name: "Mesos",
    fields: &[
        optional("image", Struct(&[&DOCKER_IMAGE, &APPC_IMAGE])),
        optional("volumes", List(&Struct(&[&VOLUME]))),
    ],
};
pub(crate) static EXECUTOR_CONFIG: StructType =
    StructType { name: "ExecutorConfig", fields: &[optional("name", Text), optional("data", Text)] };

pub(crate) static JOB: StructType = StructType {
    name: "Job",
    fields: &[
        default("name", Text, L::Text("{{task.name}}")),
        required("role", Text, "role='www-data'"),
        required("cluster", Text, "cluster='devcluster'"),
        required("environment", Text, "environment='prod'"),
        required("task", Struct(&[&TASK]), "task=Task(...)"),
        default("instances", Int, L::Int(1)),
        optional("contact", Text),
        warned("announce", Struct(&[&ANNOUNCER]), "the job has these ports, but nothing announces where"),
        optional("tier", Text),
        refused("cron_schedule", Text, "the job would start now instead of at its times"),
        warned(
            "cron_collision_policy",
            OneOf(&["KILL_EXISTING", "CANCEL_NEW", "RUN_OVERLAP"]),
            "it concerns cron jobs only",
        ),
        warned("update_config", Struct(&[&UPDATE_CONFIG]), "jobs cannot be updated in steps"),
        optional("constraints", Map),
        optional("metadata", List(&Struct(&[&METADATA]))),
        default("service", Bool, L::Bool(false)),
        default("max_task_failures", Int, L::Int(1)),
        optional("production", Bool),
        default("priority", Int, L::Int(0)),
        warned(
            "health_check_config",
            Struct(&[&HEALTH_CHECK_CONFIG]),
            "a task is RUNNING as soon as its processes have started",
        ),
        warned("lifecycle", Struct(&[&LIFECYCLE_CONFIG]), "a task is stopped by signals only"),
        warned("task_links", Map, "the pages show no links of the job"),
        refused("executor_config", Struct(&[&EXECUTOR_CONFIG]), "the job asks to be run by something else"),
        warned("enable_hooks", Bool, "no hooks are run"),
        optional("partition_policy", Struct(&[&PARTITION_POLICY])),
        optional("preferences", List(&Struct(&[&PREFERENCE]))),
        optional("spreads", List(&Struct(&[&SPREAD]))),
        default("all_or_nothing", Bool, L::Bool(false)),
        default("at_most_one", Bool, L::Bool(false)),
        warned(
            "sla_policy",
            Struct(&[&PERCENTAGE_SLA, &COUNT_SLA, &COORDINATOR_SLA]),
            "maintenance does not wait for the job",
        ),
        refused("container", Struct(&[&CONTAINER, &DOCKER, &MESOS]), "the job would run without its image"),
    ],
};

/// Every type that a file can name, by the names it has there.
pub(crate) static TYPES: &[(&str, &StructType)] = &[
    ("Process", &PROCESS),
    ("Logger", &LOGGER),
    ("RotatePolicy", &ROTATE_POLICY),
    ("Resources", &RESOURCES),
    ("Constraint", &CONSTRAINT),
    ("Task", &TASK),
    ("Metadata", &METADATA),
    ("Job", &JOB),
    ("MesosJob", &JOB),
    ("UpdateConfig", &UPDATE_CONFIG),
    ("QueueUpdateStrategy", &QUEUE_STRATEGY),
    ("BatchUpdateStrategy", &BATCH_STRATEGY),
    ("VariableBatchUpdateStrategy", &VARIABLE_STRATEGY),
    ("HealthCheckConfig", &HEALTH_CHECK_CONFIG),
    ("HealthCheckerConfig", &HEALTH_CHECKER_CONFIG),
    ("HttpHealthChecker", &HTTP_HEALTH_CHECKER),
    ("ShellHealthChecker", &SHELL_HEALTH_CHECKER),
    ("LifecycleConfig", &LIFECYCLE_CONFIG),
    ("HttpLifecycleConfig", &HTTP_LIFECYCLE_CONFIG),
    ("Announcer", &ANNOUNCER),
    ("PartitionPolicy", &PARTITION_POLICY),
    ("Preference", &PREFERENCE),
    ("Spread", &SPREAD),
    ("PercentageSlaPolicy", &PERCENTAGE_SLA),
    ("CountSlaPolicy", &COUNT_SLA),
    ("CoordinatorSlaPolicy", &COORDINATOR_SLA),
    ("Parameter", &PARAMETER),
    ("Docker", &DOCKER),
    ("Container", &CONTAINER),
    ("DockerImage", &DOCKER_IMAGE),
    ("AppcImage", &APPC_IMAGE),
    ("Volume", &VOLUME),
    ("Mesos", &MESOS),
    ("ExecutorConfig", &EXECUTOR_CONFIG),
];

/// Names that Aurora's files know and that are not understood yet, so that a message can say so.
pub(crate) static NOT_YET: &[&str] = &[
    "Boolean",
    "Choice",
    "Default",
    "Enum",
    "Float",
    "Integer",
    "JVMProcess",
    "List",
    "Map",
    "Options",
    "Processes",
    "Required",
    "String",
    "Struct",
    "Tasks",
    "Units",
    "abs",
    "all",
    "any",
    "combine_tasks",
    "concat_tasks",
    "enumerate",
    "eval",
    "exec",
    "filter",
    "include",
    "isinstance",
    "java_options",
    "map",
    "open",
    "print",
    "python_options",
    "range",
    "reversed",
    "round",
    "set",
    "sorted",
    "sum",
    "tuple",
    "type",
    "xrange",
    "zip",
];
