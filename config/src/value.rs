//! What evaluation makes: values, each with the place it was written at.
//!
//! Lists, dicts and objects live in a [`Heap`] and are named by handles: they may be shared and even hold
//! themselves, and are all freed at once.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::builtin::{Builtin, Method};
use crate::limits::Budget;
use crate::problem::{Fault, Issue};
use crate::schema::StructType;
use crate::source::Span;

/// A value and the expression that it comes from.
#[derive(Clone)]
pub(crate) struct Value {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
}

#[derive(Clone)]
pub(crate) enum Kind {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    List(ListId),
    Tuple(ListId),
    Dict(DictId),
    /// An object of the job language: a `Process`, a `Job` ...
    Struct(StructId),
    /// The name that makes such objects.
    Type(&'static StructType),
    Builtin(Builtin),
    /// A method, taken from its owner but not yet called.
    Method(Method, Rc<Value>),
    /// `object.field`, not yet called.
    Getter(StructId, &'static str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListId(u32);
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct DictId(u32);
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct StructId(u32);

/// Keeps the order of insertion.
#[derive(Default)]
pub(crate) struct Dict {
    index: BTreeMap<Key, usize>,
    items: Vec<(Value, Value)>,
}

/// What can be a key; equal numbers are equal keys, as in Python.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    None,
    Int(i64),
    Float(u64),
    Text(Rc<str>),
}

impl Dict {
    fn key(value: &Value) -> Result<Key, Fault> {
        Ok(match &value.kind {
            Kind::None => Key::None,
            Kind::Bool(bool) => Key::Int(i64::from(*bool)),
            Kind::Int(int) => Key::Int(*int),
            #[expect(clippy::cast_possible_truncation, reason = "checked by converting back")]
            Kind::Float(float) if (*float as i64) as f64 == *float => Key::Int(*float as i64),
            Kind::Float(float) => Key::Float(float.to_bits()),
            Kind::Text(text) => Key::Text(Rc::clone(text)),
            other => return Err(Issue::error(value.span, format!("{} cannot be a key", other.a_name()))),
        })
    }

    /// Sets a value; the one it replaces comes back.
    pub(crate) fn insert(&mut self, key: Value, value: Value) -> Result<Option<(Value, Value)>, Fault> {
        let slot = Dict::key(&key)?;
        if let Some(item) = self.index.get(&slot).and_then(|&at| self.items.get_mut(at)) {
            return Ok(Some(std::mem::replace(item, (key, value))));
        }
        self.index.insert(slot, self.items.len());
        self.items.push((key, value));
        Ok(None)
    }

    pub(crate) fn get(&self, key: &Value) -> Result<Option<&Value>, Fault> {
        let at = self.index.get(&Dict::key(key)?);
        Ok(at.and_then(|&at| self.items.get(at)).map(|(_, value)| value))
    }

    pub(crate) fn items(&self) -> &[(Value, Value)] {
        &self.items
    }
}

/// An object of the job language.
#[derive(Clone)]
pub(crate) struct Instance {
    pub(crate) ty: &'static StructType,
    /// The name that was called, or the first brace of a JSON object.
    pub(crate) called: Span,
    /// The whole expression.
    pub(crate) span: Span,
    pub(crate) fields: BTreeMap<&'static str, Field>,
    /// Given by `.bind`; the newest wins.
    pub(crate) bindings: BTreeMap<Rc<str>, Value>,
}

/// A field that was set.
#[derive(Clone)]
pub(crate) struct Field {
    /// Where its name stands.
    pub(crate) at: Span,
    pub(crate) value: Value,
}

/// Where lists, dicts and objects live until the end.
#[derive(Default)]
pub(crate) struct Heap {
    lists: Vec<Vec<Value>>,
    dicts: Vec<Dict>,
    structs: Vec<Instance>,
}

/// Memory of one element of a list, about.
pub(crate) const VALUE_BYTES: usize = 64;
/// Memory of one element of a dict or one field of an object, about.
pub(crate) const ENTRY_BYTES: usize = 192;

impl Heap {
    pub(crate) fn list(
        &mut self,
        budget: &mut Budget,
        span: Span,
        items: Vec<Value>,
    ) -> Result<ListId, Fault> {
        budget.charge(span, VALUE_BYTES * (items.len() + 1))?;
        self.lists.push(items);
        Ok(ListId(handle(self.lists.len())))
    }

    pub(crate) fn dict(&mut self, budget: &mut Budget, span: Span, dict: Dict) -> Result<DictId, Fault> {
        budget.charge(span, ENTRY_BYTES * (dict.items.len() + 1))?;
        self.dicts.push(dict);
        Ok(DictId(handle(self.dicts.len())))
    }

    pub(crate) fn object(&mut self, budget: &mut Budget, instance: Instance) -> Result<StructId, Fault> {
        let entries = instance.fields.len() + instance.bindings.len();
        budget.charge(instance.span, ENTRY_BYTES * (entries + 1))?;
        self.structs.push(instance);
        Ok(StructId(handle(self.structs.len())))
    }

    pub(crate) fn items(&self, id: ListId) -> &[Value] {
        &self.lists[id.0 as usize]
    }

    pub(crate) fn items_mut(&mut self, id: ListId) -> &mut Vec<Value> {
        &mut self.lists[id.0 as usize]
    }

    pub(crate) fn entries(&self, id: DictId) -> &Dict {
        &self.dicts[id.0 as usize]
    }

    pub(crate) fn entries_mut(&mut self, id: DictId) -> &mut Dict {
        &mut self.dicts[id.0 as usize]
    }

    pub(crate) fn instance(&self, id: StructId) -> &Instance {
        &self.structs[id.0 as usize]
    }
}

/// The handle of the newest of `count` things; the budget of memory keeps counts far below `u32::MAX`.
fn handle(count: usize) -> u32 {
    u32::try_from(count - 1).unwrap_or(u32::MAX)
}

impl Value {
    pub(crate) fn new(span: Span, kind: Kind) -> Self {
        Value { span, kind }
    }

    pub(crate) fn text(span: Span, text: &str) -> Self {
        Value { span, kind: Kind::Text(text.into()) }
    }
}

impl Kind {
    /// With its article, as it stands in a sentence.
    pub(crate) fn a_name(&self) -> String {
        match self {
            Kind::None => "`None`".to_owned(),
            Kind::Bool(_) => "a boolean".to_owned(),
            Kind::Int(_) => "a whole number".to_owned(),
            Kind::Float(_) => "a number".to_owned(),
            Kind::Text(_) => "a text".to_owned(),
            Kind::List(_) => "a list".to_owned(),
            Kind::Tuple(_) => "a tuple".to_owned(),
            Kind::Dict(_) => "a dict".to_owned(),
            Kind::Struct(_) => "an object".to_owned(),
            Kind::Type(ty) => format!("the type `{}`", ty.name),
            Kind::Builtin(_) | Kind::Method(..) => "a function".to_owned(),
            Kind::Getter(_, field) => format!("the accessor `{field}`"),
        }
    }

    /// As [`Kind::a_name`], but objects by their type.
    pub(crate) fn describe(&self, heap: &Heap) -> String {
        match self {
            Kind::Struct(id) => format!("a `{}`", heap.instance(*id).ty.name),
            other => other.a_name(),
        }
    }
}
