//! The names that every file finds defined, and the methods of its values.

use std::collections::BTreeMap;

use crate::eval::{Arguments, Evaluator};
use crate::format;
use crate::problem::{Fault, Issue, did_you_mean, quoted};
use crate::schema::{CONSTRAINT, JOB, LIFECYCLE_CONFIG, PROCESS, RESOURCES, TASK, TYPES};
use crate::source::Span;
use crate::value::{Dict, Field, Instance, Kind, Value};

/// A function that stands under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Builtin {
    Order,
    SequentialTask,
    SimpleTask,
    Str,
    Int,
    Float,
    Len,
    List,
    Dict,
}

static FUNCTIONS: &[(&str, Builtin)] = &[
    ("order", Builtin::Order),
    ("SequentialTask", Builtin::SequentialTask),
    ("SimpleTask", Builtin::SimpleTask),
    ("str", Builtin::Str),
    ("int", Builtin::Int),
    ("float", Builtin::Float),
    ("len", Builtin::Len),
    ("list", Builtin::List),
    ("dict", Builtin::Dict),
];

static UNITS: &[(&str, i64)] =
    &[("BYTES", 1), ("KB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

/// A function that belongs to a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Method {
    Bind,
    Format,
    Join,
    Upper,
    Lower,
    Strip,
    Replace,
    Append,
    Extend,
    Get,
}

static TEXT_METHODS: &[(&str, Method)] = &[
    ("format", Method::Format),
    ("join", Method::Join),
    ("upper", Method::Upper),
    ("lower", Method::Lower),
    ("strip", Method::Strip),
    ("replace", Method::Replace),
];
static LIST_METHODS: &[(&str, Method)] = &[("append", Method::Append), ("extend", Method::Extend)];
static DICT_METHODS: &[(&str, Method)] = &[("get", Method::Get)];
static STRUCT_METHODS: &[(&str, Method)] = &[("bind", Method::Bind)];

/// What a name means in a file that has not assigned it. `span` is where it is used.
pub(crate) fn predefined(e: &mut Evaluator<'_, '_>, name: &str, span: Span) -> Result<Option<Value>, Fault> {
    let kind = if let Some((_, ty)) = TYPES.iter().find(|(known, _)| *known == name) {
        Kind::Type(ty)
    } else if let Some((_, function)) = FUNCTIONS.iter().find(|(known, _)| *known == name) {
        Kind::Builtin(*function)
    } else if let Some((_, bytes)) = UNITS.iter().find(|(known, _)| *known == name) {
        Kind::Int(*bytes)
    } else {
        match name {
            "Service" => {
                let service = Field { at: span, value: Value::new(span, Kind::Bool(true)) };
                return e.object(&JOB, span, span, BTreeMap::from([("service", service)])).map(Some);
            }
            "DisableLifecycle" => return e.object(&LIFECYCLE_CONFIG, span, span, BTreeMap::new()).map(Some),
            "AURORA_EXECUTOR_NAME" => Kind::Text("AuroraExecutor".into()),
            _ => return Ok(None),
        }
    };
    Ok(Some(Value::new(span, kind)))
}

/// All names that [`predefined`] knows.
pub(crate) fn predefined_names<'k>() -> impl Iterator<Item = &'k str> {
    let types = TYPES.iter().map(|(name, _)| *name);
    let functions = FUNCTIONS.iter().map(|(name, _)| *name);
    let units = UNITS.iter().map(|(name, _)| *name);
    types.chain(functions).chain(units).chain(["Service", "DisableLifecycle"])
}

/// `value.name`.
pub(crate) fn attribute(
    e: &mut Evaluator<'_, '_>,
    owner: Value,
    name: &str,
    name_span: Span,
    span: Span,
) -> Result<Value, Fault> {
    let methods = match &owner.kind {
        Kind::Text(_) => TEXT_METHODS,
        Kind::List(_) => LIST_METHODS,
        Kind::Dict(_) => DICT_METHODS,
        Kind::Struct(_) => STRUCT_METHODS,
        _ => &[],
    };
    if let Some((_, method)) = methods.iter().find(|(known, _)| *known == name) {
        return Ok(Value::new(span, Kind::Method(*method, owner.into())));
    }
    let mut known: Vec<&str> = methods.iter().map(|(name, _)| *name).collect();
    if let Kind::Struct(id) = owner.kind {
        let ty = e.run.heap.instance(id).ty;
        if let Some(field) = ty.field(name) {
            return Ok(Value::new(span, Kind::Getter(id, field.name)));
        }
        known.extend(ty.fields.iter().map(|field| field.name));
    }
    let what = owner.kind.describe(&e.run.heap);
    let reason = format!("{what} has no attribute {} here", quoted(name));
    Err(Issue::error(name_span, reason).maybe_hint(did_you_mean(name, known)))
}

/// Calls a function.
pub(crate) fn call(
    e: &mut Evaluator<'_, '_>,
    function: Builtin,
    called: Span,
    args: Arguments,
) -> Result<Value, Fault> {
    let span = args.span;
    match function {
        Builtin::Order => {
            args.no_keywords("order")?;
            let ordered = args.positional;
            constraints(e, ordered, called, span)
        }
        Builtin::SequentialTask => {
            if let Some(given) = args.keywords.iter().find(|(name, _)| &**name == "constraints") {
                let reason = "`SequentialTask` orders its processes itself and takes no `constraints`";
                return Err(Issue::error(given.1.at, reason).hint("use `Task` with `constraints`"));
            }
            let Value { kind: Kind::Struct(task), .. } = e.construct(&TASK, None, called, args)? else {
                return Err(Issue::error(span, "`SequentialTask` made no task"));
            };
            let instance = e.run.heap.instance(task).clone();
            let processes = match instance.fields.get("processes").map(|field| &field.value.kind) {
                Some(Kind::List(list) | Kind::Tuple(list)) => e.run.heap.items(*list).to_vec(),
                _ => Vec::new(), // what is wrong with it is said when the task is used
            };
            let mut fields = instance.fields;
            if processes.len() > 1 {
                let order = constraints(e, processes, called, span)?;
                fields.insert("constraints", Field { at: called, value: order });
            }
            e.object(&TASK, called, span, fields)
        }
        Builtin::SimpleTask => {
            let [name, command] = args.exactly("SimpleTask", ["name", "command"])?;
            let at = |value: Value| Field { at: value.span, value };
            let process = BTreeMap::from([("name", at(name.clone())), ("cmdline", at(command))]);
            let process = e.object(&PROCESS, called, span, process)?;
            let of = |kind: Kind| Field { at: called, value: Value::new(called, kind) };
            let (one, gib) = (Kind::Float(1.0), 1_i64 << 30);
            let resources =
                BTreeMap::from([("cpu", of(one)), ("ram", of(Kind::Int(gib))), ("disk", of(Kind::Int(gib)))]);
            let resources = e.object(&RESOURCES, called, span, resources)?;
            let processes = e.list(called, vec![process])?;
            let fields = BTreeMap::from([
                ("name", at(name)),
                ("processes", Field { at: called, value: processes }),
                ("resources", Field { at: called, value: resources }),
            ]);
            e.object(&TASK, called, span, fields)
        }
        Builtin::Str => {
            let [value] = args.exactly("str", ["object"])?;
            let text =
                format::text(&e.run.heap, &value).map_err(|reason| Issue::error(value.span, reason))?;
            e.text(span, &text)
        }
        Builtin::Int => {
            let [value] = args.exactly("int", ["x"])?;
            let int = match &value.kind {
                Kind::Int(int) => Some(*int),
                Kind::Bool(bool) => Some(i64::from(*bool)),
                Kind::Float(float) => format::whole(float.trunc()),
                Kind::Text(text) => text.trim().replace('_', "").parse().ok(),
                _ => None,
            };
            let bad = || Issue::error(value.span, "this is not a whole number");
            Ok(Value::new(span, Kind::Int(int.ok_or_else(bad)?)))
        }
        Builtin::Float => {
            let [value] = args.exactly("float", ["x"])?;
            #[expect(clippy::cast_precision_loss, reason = "as in Python")]
            let float = match &value.kind {
                Kind::Int(int) => Some(*int as f64),
                Kind::Bool(bool) => Some(f64::from(u8::from(*bool))),
                Kind::Float(float) => Some(*float),
                Kind::Text(text) => text.trim().parse().ok(),
                _ => None,
            };
            let bad = || Issue::error(value.span, "this is not a number");
            Ok(Value::new(span, Kind::Float(float.ok_or_else(bad)?)))
        }
        Builtin::Len => {
            let [value] = args.exactly("len", ["obj"])?;
            let len = match &value.kind {
                Kind::Text(text) => text.chars().count(),
                Kind::List(list) | Kind::Tuple(list) => e.run.heap.items(*list).len(),
                Kind::Dict(dict) => e.run.heap.entries(*dict).items().len(),
                other => {
                    let reason = format!("{} has no length", other.describe(&e.run.heap));
                    return Err(Issue::error(value.span, reason));
                }
            };
            Ok(Value::new(span, Kind::Int(i64::try_from(len).unwrap_or(i64::MAX))))
        }
        Builtin::List => {
            args.no_keywords("list")?;
            let items = match &args.positional[..] {
                [] => Vec::new(),
                [one] => e.elements(one)?,
                [_, more, ..] => return Err(Issue::error(more.span, "`list` takes one argument")),
            };
            e.list(span, items)
        }
        Builtin::Dict => {
            let mut dict = Dict::default();
            for from in &args.positional {
                let Kind::Dict(id) = from.kind else {
                    return Err(Issue::error(from.span, "`dict` takes dicts and keyword arguments"));
                };
                for (key, value) in e.run.heap.entries(id).items() {
                    dict.insert(key.clone(), value.clone())?;
                }
            }
            for (name, field) in args.keywords {
                dict.insert(Value::new(field.at, Kind::Text(name)), field.value)?;
            }
            e.dict(span, dict)
        }
    }
}

/// `[Constraint(order=[...])]`.
fn constraints(
    e: &mut Evaluator<'_, '_>,
    ordered: Vec<Value>,
    called: Span,
    span: Span,
) -> Result<Value, Fault> {
    let order = e.list(span, ordered)?;
    let fields = BTreeMap::from([("order", Field { at: called, value: order })]);
    let constraint = e.object(&CONSTRAINT, called, span, fields)?;
    e.list(span, vec![constraint])
}

/// Calls a method of `owner`.
pub(crate) fn call_method(
    e: &mut Evaluator<'_, '_>,
    method: Method,
    owner: &Value,
    args: Arguments,
) -> Result<Value, Fault> {
    let span = args.span;
    match (method, &owner.kind) {
        (Method::Bind, Kind::Struct(id)) => {
            let mut instance: Instance = e.run.heap.instance(*id).clone();
            for given in &args.positional {
                match given.kind {
                    Kind::Dict(dict) => {
                        for (key, value) in e.run.heap.entries(dict).items() {
                            let Kind::Text(name) = &key.kind else {
                                return Err(Issue::error(key.span, "names to bind are texts"));
                            };
                            instance.bindings.insert(name.clone(), value.clone());
                        }
                    }
                    _ => {
                        let reason = format!("cannot bind {}", given.kind.describe(&e.run.heap));
                        return Err(Issue::error(given.span, reason).hint("write `.bind(name=value)`"));
                    }
                }
            }
            for (name, field) in args.keywords {
                instance.bindings.insert(name, field.value);
            }
            instance.span = span;
            let id = e.run.heap.object(&mut e.run.budget, instance)?;
            Ok(Value::new(span, Kind::Struct(id)))
        }
        (Method::Format, Kind::Text(text)) => {
            let text = format::dotted(e, text, owner.span, &args)?;
            e.text(span, &text)
        }
        (Method::Join, Kind::Text(between)) => {
            let [list] = args.exactly("join", ["iterable"])?;
            let mut parts = Vec::new();
            let mut bytes = 0_usize;
            for part in e.elements(&list)? {
                let Kind::Text(text) = part.kind else {
                    return Err(Issue::error(part.span, "`join` takes a list of texts"));
                };
                bytes = bytes.saturating_add(text.len() + between.len());
                e.run.budget.text(span, bytes)?;
                parts.push(text);
            }
            let text = parts.join(between);
            e.text(span, &text)
        }
        (Method::Upper, Kind::Text(text)) => {
            args.exactly("upper", [])?;
            e.text(span, &text.to_uppercase())
        }
        (Method::Lower, Kind::Text(text)) => {
            args.exactly("lower", [])?;
            e.text(span, &text.to_lowercase())
        }
        (Method::Strip, Kind::Text(text)) => {
            args.exactly("strip", [])?;
            e.text(span, text.trim())
        }
        (Method::Replace, Kind::Text(text)) => {
            let [old, new] = args.exactly("replace", ["old", "new"])?;
            let (Kind::Text(old), Kind::Text(new)) = (&old.kind, &new.kind) else {
                return Err(Issue::error(span, "`replace` takes two texts"));
            };
            let most = (text.len() + 1).saturating_mul(new.len()).saturating_add(text.len());
            e.run.budget.text(span, most)?;
            e.text(span, &text.replace(&**old, new))
        }
        (Method::Append, Kind::List(list)) => {
            let [item] = args.exactly("append", ["object"])?;
            e.run.budget.charge(span, crate::value::VALUE_BYTES)?;
            e.run.heap.items_mut(*list).push(item);
            Ok(Value::new(span, Kind::None))
        }
        (Method::Extend, Kind::List(list)) => {
            let [more] = args.exactly("extend", ["iterable"])?;
            let more = e.elements(&more)?;
            e.run.budget.charge(span, crate::value::VALUE_BYTES * more.len())?;
            e.run.heap.items_mut(*list).extend(more);
            Ok(Value::new(span, Kind::None))
        }
        (Method::Get, Kind::Dict(dict)) => {
            args.no_keywords("get")?;
            let (key, otherwise) = match &args.positional[..] {
                [key] => (key, Value::new(span, Kind::None)),
                [key, otherwise] => (key, otherwise.clone()),
                _ => return Err(Issue::error(span, "`get` takes a key and perhaps a default")),
            };
            Ok(e.run.heap.entries(*dict).get(key)?.cloned().unwrap_or(otherwise))
        }
        _ => Err(Issue::error(span, "this cannot be called")),
    }
}
