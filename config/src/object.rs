//! Setting the fields of objects: unknown names are refused here, dicts become the objects they stand for.
//! Not here: what the values are worth (`resolve`).

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::eval::Run;
use crate::problem::{Fault, Issue, did_you_mean, quoted};
use crate::schema::{StructType, Type};
use crate::source::Span;
use crate::value::{DictId, Field, Instance, Kind, Value};

/// Sets fields; a later one replaces an earlier one.
pub(crate) fn set(
    run: &mut Run<'_>,
    instance: &mut Instance,
    given: Vec<(Rc<str>, Field)>,
) -> Result<(), Fault> {
    for (name, field) in given {
        let Some(known) = instance.ty.field(&name) else {
            return Err(unknown_field(instance.ty, &name, field.at));
        };
        let value = adopt(run, field.value, &known.ty)?;
        instance.fields.insert(known.name, Field { at: field.at, value });
    }
    Ok(())
}

fn unknown_field(ty: &StructType, name: &str, at: Span) -> Fault {
    let names = ty.fields.iter().map(|field| field.name);
    let all = || format!("its fields are {}", names.clone().collect::<Vec<_>>().join(", "));
    let hint = did_you_mean(name, names.clone()).unwrap_or_else(all);
    Issue::error(at, format!("`{}` has no field {}", ty.name, quoted(name))).hint(hint)
}

/// A dict where an object is due becomes that object; anything else stays what it is.
pub(crate) fn adopt(run: &mut Run<'_>, value: Value, ty: &Type) -> Result<Value, Fault> {
    match (ty, &value.kind) {
        (Type::Struct([ty, ..]), Kind::Dict(dict)) => from_dict(run, ty, *dict, value.span),
        (Type::List(element @ Type::Struct(_)), Kind::List(list) | Kind::Tuple(list)) => {
            let items = run.heap.items(*list);
            if !items.iter().any(|item| matches!(item.kind, Kind::Dict(_))) {
                return Ok(value);
            }
            let items = items.to_vec();
            let mut adopted = Vec::with_capacity(items.len());
            for item in items {
                adopted.push(adopt(run, item, element)?);
            }
            let id = run.heap.list(&mut run.budget, value.span, adopted)?;
            Ok(Value::new(value.span, Kind::List(id)))
        }
        _ => Ok(value),
    }
}

/// An object of `ty` from a dict of its fields.
pub(crate) fn from_dict(
    run: &mut Run<'_>,
    ty: &'static StructType,
    dict: DictId,
    span: Span,
) -> Result<Value, Fault> {
    run.budget.step(span)?;
    let mut given = Vec::new();
    for (key, value) in run.heap.entries(dict).items() {
        let Kind::Text(name) = &key.kind else {
            return Err(Issue::error(key.span, "names of fields are texts"));
        };
        given.push((name.clone(), Field { at: key.span, value: value.clone() }));
    }
    let called = Span { end: span.start.saturating_add(1), ..span };
    let mut instance = Instance { ty, called, span, fields: BTreeMap::new(), bindings: BTreeMap::new() };
    set(run, &mut instance, given)?;
    let id = run.heap.object(&mut run.budget, instance)?;
    Ok(Value::new(span, Kind::Struct(id)))
}
