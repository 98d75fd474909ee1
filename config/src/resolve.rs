//! From objects to plain typed data: templates are filled, types checked, defaults put in.
//!
//! Scoping: the fields and bindings of an object are in scope within it and within all it holds; nearer ones
//! win. What a template stands for is filled where it was found, then where it is used. All that is wrong with
//! a job is collected. Not here: what the data means (`spec`).

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::eval::Run;
use crate::format;
use crate::limits::TEMPLATE_DEPTH_MAX;
use crate::object;
use crate::problem::{Fault, Issue, did_you_mean, quoted};
use crate::schema::{FieldType, Literal, Presence, StructType, Support, Type};
use crate::source::Span;
use crate::template::{self, Address, KEPT_CLOSE, KEPT_OPEN, Step};
use crate::value::{Field, Kind, StructId, Value};

/// Plain data and where it comes from.
pub(crate) struct Typed {
    pub(crate) span: Span,
    pub(crate) data: Data,
}

pub(crate) enum Data {
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Object(Object),
    List(Vec<Typed>),
    Map(Vec<(Typed, Typed)>),
}

/// An object with every required field and every default.
pub(crate) struct Object {
    /// The name that was called.
    pub(crate) span: Span,
    fields: BTreeMap<&'static str, Typed>,
}

impl Object {
    pub(crate) fn get(&self, name: &str) -> Option<&Typed> {
        self.fields.get(name)
    }

    /// Where a field's value stands, or the object when the value is a default.
    pub(crate) fn span_of(&self, name: &str) -> Span {
        self.get(name).map_or(self.span, |typed| typed.span)
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        match self.get(name).map(|typed| &typed.data) {
            Some(Data::Text(text)) => text,
            _ => "",
        }
    }

    pub(crate) fn int(&self, name: &str) -> i64 {
        match self.get(name).map(|typed| &typed.data) {
            Some(Data::Int(int)) => *int,
            _ => 0,
        }
    }

    pub(crate) fn float(&self, name: &str) -> f64 {
        match self.get(name).map(|typed| &typed.data) {
            Some(Data::Float(float)) => *float,
            _ => 0.0,
        }
    }

    pub(crate) fn bool(&self, name: &str) -> bool {
        matches!(self.get(name).map(|typed| &typed.data), Some(Data::Bool(true)))
    }

    pub(crate) fn object(&self, name: &str) -> Option<&Object> {
        match self.get(name).map(|typed| &typed.data) {
            Some(Data::Object(object)) => Some(object),
            _ => None,
        }
    }

    pub(crate) fn list(&self, name: &str) -> &[Typed] {
        match self.get(name).map(|typed| &typed.data) {
            Some(Data::List(items)) => items,
            _ => &[],
        }
    }

    pub(crate) fn map(&self, name: &str) -> &[(Typed, Typed)] {
        match self.get(name).map(|typed| &typed.data) {
            Some(Data::Map(items)) => items,
            _ => &[],
        }
    }
}

/// The objects around a text, from the inside out.
struct Scope {
    object: StructId,
    parent: Option<Rc<Scope>>,
    /// Where a template that led here is used; searched last.
    user: Option<Rc<Scope>>,
}

/// A value's way into its type, with all that can be said about its place.
#[derive(Clone, Copy)]
struct Aim {
    /// `Job.instances`, for the message.
    ty: &'static str,
    field: &'static str,
    /// Where to point.
    span: Span,
    /// Where the value comes from, when that is elsewhere.
    origin: Span,
    /// Whether templates that the executor fills may stay.
    late: bool,
}

impl Aim {
    fn at(self, value: &Value) -> Aim {
        Aim { span: value.span, origin: value.span, ..self }
    }

    fn fault(self, reason: impl Into<String>) -> Fault {
        Issue::error(self.span, reason).also(self.origin, "the value comes from here")
    }
}

/// Resolves the jobs of one file.
pub(crate) struct Resolver<'r, 's> {
    pub(crate) run: &'r mut Run<'s>,
    bindings: &'r BTreeMap<String, String>,
    /// Errors and warnings, in the order found.
    pub(crate) issues: Vec<Fault>,
}

impl<'r, 's> Resolver<'r, 's> {
    pub(crate) fn new(run: &'r mut Run<'s>, bindings: &'r BTreeMap<String, String>) -> Self {
        Resolver { run, bindings, issues: Vec::new() }
    }

    /// A whole job; `None` when something is wrong, which `issues` then tells.
    pub(crate) fn job(&mut self, id: StructId) -> Option<Object> {
        self.object(id, None)
    }

    fn is_json(&self, span: Span) -> bool {
        self.run.sources.get(span).is_some_and(|source| source.name.ends_with(".json"))
    }

    fn keep<T>(&mut self, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.issues.push(fault)).ok()
    }

    fn object(&mut self, id: StructId, parent: Option<&Rc<Scope>>) -> Option<Object> {
        let (ty, called, span) = {
            let instance = self.run.heap.instance(id);
            (instance.ty, instance.called, instance.span)
        };
        let step = self.run.budget.step(called);
        self.keep(step)?;
        let scope = Rc::new(Scope { object: id, parent: parent.cloned(), user: None });
        let mut fields = BTreeMap::new();
        let mut complete = true;
        for known in ty.fields {
            let given = self.run.heap.instance(id).fields.get(known.name).cloned();
            match (given, known.presence) {
                (Some(field), _) if !matches!(field.value.kind, Kind::None) => {
                    match self.field(ty, known, &field, span, &scope) {
                        Some(typed) => drop(fields.insert(known.name, typed)),
                        None => complete = false,
                    }
                }
                (_, Presence::Required(example)) => {
                    let reason = format!("`{}` has no `{}`, which it needs", ty.name, known.name);
                    let example = if self.is_json(called) {
                        json_example(known.name, example)
                    } else {
                        (*example).to_owned()
                    };
                    self.issues.push(Issue::error(called, reason).hint(format!("for example `{example}`")));
                    complete = false;
                }
                (_, Presence::Optional | Presence::Default(_)) => {}
            }
        }
        // Defaults may be templates over the other fields, so they come when those are known to be good.
        for known in ty.fields.iter().filter(|_| complete) {
            let Presence::Default(literal) = known.presence else { continue };
            if !fields.contains_key(known.name) {
                let aim = Aim { ty: ty.name, field: known.name, span: called, origin: called, late: false };
                let typed = self.typed(&from_literal(literal, called), &known.ty, aim, &scope)?;
                fields.insert(known.name, typed);
            }
        }
        Some(Object { span: called, fields }).filter(|_| complete)
    }

    fn field(
        &mut self,
        ty: &'static StructType,
        known: &'static FieldType,
        field: &Field,
        within: Span,
        scope: &Rc<Scope>,
    ) -> Option<Typed> {
        // Data from elsewhere is blamed where it is given; a field of the base that was called, where it was written.
        let given_elsewhere = within.holds(field.at) && !within.holds(field.value.span);
        let span = if given_elsewhere { field.at } else { field.value.span };
        // Also in what is not honoured yet, such as the command of a health check.
        let late = match ty.name {
            "Process" => known.name == "cmdline",
            "Announcer" | "HttpHealthChecker" | "ShellHealthChecker" => true,
            _ => false,
        };
        let aim = Aim { ty: ty.name, field: known.name, span, origin: field.value.span, late };
        let typed = self.typed(&field.value, &known.ty, aim, scope)?;
        match known.support {
            Support::Honoured => {}
            _ if changes_nothing(known.name, &typed) => {}
            Support::Warned(why) => {
                let reason = format!("`{}` is not supported yet: {why}", known.name);
                self.issues.push(Issue::warning(field.at, reason));
            }
            Support::Refused(why) => {
                let reason = format!("`{}` is not supported yet: {why}", known.name);
                self.issues.push(Issue::error(field.at, reason));
                return None;
            }
        }
        Some(Typed { span, ..typed })
    }

    fn typed(&mut self, value: &Value, ty: &'static Type, aim: Aim, scope: &Rc<Scope>) -> Option<Typed> {
        let step = self.run.budget.step(aim.span);
        self.keep(step)?;
        let data = match (ty, &value.kind) {
            (Type::List(element), Kind::List(list) | Kind::Tuple(list)) => {
                let items = self.run.heap.items(*list).to_vec();
                let charge = self.run.budget.charge(aim.span, crate::value::VALUE_BYTES * items.len());
                self.keep(charge)?;
                if items.is_empty() && aim.field == "processes" {
                    self.issues.push(aim.fault("the task has no process"));
                    return None;
                }
                let mut typed = Vec::with_capacity(items.len());
                let mut complete = true;
                for item in &items {
                    match self.typed(item, element, aim.at(item), scope) {
                        Some(item) => typed.push(item),
                        None => complete = false,
                    }
                    if self.issues.len() > ISSUES_ENOUGH {
                        return None;
                    }
                }
                if !complete {
                    return None;
                }
                Data::List(typed)
            }
            (Type::Map, Kind::Dict(dict)) => {
                let items = self.run.heap.entries(*dict).items().to_vec();
                let mut typed = Vec::with_capacity(items.len());
                for (key, value) in &items {
                    let key = self.typed(key, &Type::Text, aim.at(key), scope)?;
                    let value = self.typed(value, &Type::Text, aim.at(value), scope)?;
                    typed.push((key, value));
                }
                Data::Map(typed)
            }
            (Type::Struct(types), Kind::Struct(id)) => {
                let found = self.run.heap.instance(*id).ty;
                if !types.iter().any(|ty| ty.name == found.name) {
                    return self.wrong(value, ty, aim);
                }
                Data::Object(self.object(*id, Some(scope))?)
            }
            (Type::Struct([first, ..]), Kind::Dict(dict)) => {
                let adopted = object::from_dict(self.run, first, *dict, value.span);
                match self.keep(adopted)?.kind {
                    Kind::Struct(id) => Data::Object(self.object(id, Some(scope))?),
                    _ => return None,
                }
            }
            // `order` may name a process by itself.
            (Type::Text, Kind::Struct(id))
                if aim.field == "order" && self.run.heap.instance(*id).ty.name == "Process" =>
            {
                let inner = Rc::new(Scope { object: *id, parent: Some(Rc::clone(scope)), user: None });
                let name = self.run.heap.instance(*id).fields.get("name").map(|field| field.value.clone());
                let Some(name) = name else {
                    self.issues.push(Issue::error(value.span, "this process has no `name` to order it by"));
                    return None;
                };
                return self.typed(&name, &Type::Text, aim.at(value), &inner);
            }
            (Type::Text, Kind::Text(text)) => Data::Text(self.fill(text, aim, scope)?),
            (Type::Text, Kind::Int(_) | Kind::Float(_)) => {
                Data::Text(format::text(&self.run.heap, value).unwrap_or_default())
            }
            (Type::OneOf(words), Kind::Text(text)) => {
                let word = self.fill(text, aim, scope)?;
                if !words.contains(&&*word) {
                    let reason = format!("`{}` cannot be {}", aim.field, quoted(&word));
                    let all = || format!("it is one of {}", words.join(", "));
                    let hint = did_you_mean(&word, words.iter().copied()).unwrap_or_else(all);
                    self.issues.push(aim.fault(reason).hint(hint));
                    return None;
                }
                Data::Text(word)
            }
            (Type::Int, Kind::Int(int)) | (Type::Bytes, Kind::Int(int)) => Data::Int(*int),
            (Type::Int, Kind::Float(float)) => match format::whole(*float) {
                Some(int) => Data::Int(int),
                None => {
                    let reason =
                        format!("`{}` must be a whole number, not {}", aim.field, format::float(*float));
                    self.issues.push(aim.fault(reason).hint("`//` divides without a fraction"));
                    return None;
                }
            },
            (Type::Bytes, Kind::Float(float)) => match format::whole(float.ceil()) {
                Some(int) => Data::Int(int),
                None => return self.wrong(value, ty, aim),
            },
            #[expect(clippy::cast_precision_loss, reason = "as in Python")]
            (Type::Float, Kind::Int(int)) => Data::Float(*int as f64),
            (Type::Float, Kind::Float(float)) => Data::Float(*float),
            (Type::Bool, Kind::Bool(bool)) => Data::Bool(*bool),
            (Type::Bool, Kind::Int(int @ (0 | 1))) => Data::Bool(*int == 1),
            (Type::Int | Type::Bytes | Type::Float | Type::Bool, Kind::Text(text)) => {
                let filled = self.fill(text, aim, scope)?;
                match parsed(filled.trim(), ty) {
                    Some(data) => data,
                    None => {
                        let reason = format!(
                            "`{}` must be {}, not the text {}",
                            aim.field,
                            wanted(ty),
                            quoted(&filled)
                        );
                        let hint = unit_hint(&filled).filter(|_| matches!(ty, Type::Bytes));
                        self.issues.push(aim.fault(reason).maybe_hint(hint));
                        return None;
                    }
                }
            }
            _ => return self.wrong(value, ty, aim),
        };
        Some(Typed { span: aim.span, data })
    }

    fn wrong(&mut self, value: &Value, ty: &Type, aim: Aim) -> Option<Typed> {
        let found = value.kind.describe(&self.run.heap);
        let reason = format!("`{}` of `{}` must be {}, not {found}", aim.field, aim.ty, wanted(ty));
        let hint = match (ty, &value.kind) {
            (Type::List(_), Kind::Struct(_) | Kind::Text(_)) => Some("put it in brackets: `[...]`"),
            (Type::Struct(_), Kind::List(_)) if aim.field == "constraints" => {
                Some("`order(...)` is a list already; it needs no brackets")
            }
            (Type::Struct(_), Kind::Type(_)) => Some("call it: `(...)`"),
            (Type::Text, Kind::Bool(_)) => Some("put it in quotes"),
            _ => None,
        };
        self.issues.push(aim.fault(reason).maybe_hint(hint.map(str::to_owned)));
        None
    }

    /// A text with all its templates filled, but for those that the executor fills.
    fn fill(&mut self, text: &str, aim: Aim, scope: &Rc<Scope>) -> Option<String> {
        let charge = self.run.budget.text(aim.span, text.len());
        self.keep(charge)?;
        if let Some(bad) = text.chars().find(|c| matches!(*c, KEPT_OPEN | KEPT_CLOSE | '\0')) {
            let reason =
                format!("`{}` holds the character U+{:04X}, which cannot be used", aim.field, u32::from(bad));
            self.issues.push(aim.fault(reason));
            return None;
        }
        if !text.contains("{{") {
            return Some(text.to_owned());
        }
        let filled = self.fill_inside(text, aim, scope, 0);
        let filled = self.keep(filled)?;
        Some(filled.replace(KEPT_OPEN, "{{").replace(KEPT_CLOSE, "}}"))
    }

    fn fill_inside(
        &mut self,
        text: &str,
        aim: Aim,
        scope: &Rc<Scope>,
        depth: usize,
    ) -> Result<String, Fault> {
        let mut text = text.to_owned();
        // Filling the innermost references may make new ones: `{{a{{b}}}}`.
        for _ in 0..TEMPLATE_DEPTH_MAX {
            let references = template::references(&text);
            if references.is_empty() {
                return Ok(text);
            }
            let mut out = String::new();
            let mut from = 0;
            for found in references {
                let span = self.narrow(aim, &text, found.start, found.end);
                self.run.budget.step(span)?;
                out.push_str(text.get(from..found.start).unwrap_or(""));
                from = found.end;
                let here = Aim { span, ..aim };
                let part = if found.literal {
                    format!("{KEPT_OPEN}{}{KEPT_CLOSE}", found.address)
                } else {
                    self.reference(found.address, here, scope, depth)?
                };
                self.run.budget.text(span, out.len() + part.len())?;
                out.push_str(&part);
            }
            out.push_str(text.get(from..).unwrap_or(""));
            text = out;
        }
        Err(aim.fault("templates in this text never end"))
    }

    /// The place of a reference within the source of the value it stands in.
    fn narrow(&self, aim: Aim, text: &str, start: usize, end: usize) -> Span {
        let written = text.get(start..end).unwrap_or("");
        let narrowed = self.run.sources.narrow(aim.span, written);
        if narrowed == aim.span { self.run.sources.narrow(aim.origin, written) } else { narrowed }
    }

    /// What one `{{address}}` stands for.
    fn reference(&mut self, text: &str, aim: Aim, scope: &Rc<Scope>, depth: usize) -> Result<String, Fault> {
        let written = format!("{{{{{text}}}}}");
        let literal_hint = || format!("a text that really holds it is written `{{{{&{text}}}}}`");
        let Some(address) = Address::parse(text) else {
            let reason = format!("{} is not the name of a value", quoted(&written));
            return Err(Issue::error(aim.span, reason).hint(literal_hint()));
        };
        if address.is_filled_later() {
            if !aim.late {
                let reason =
                    format!("{} is known on the machine only, when the task starts", quoted(&written));
                return Err(Issue::error(aim.span, reason).hint("it can be used in a process's `cmdline`"));
            }
            return Ok(format!("{KEPT_OPEN}{text}{KEPT_CLOSE}"));
        }
        if let ("thermos", [Step::Name("ports"), Step::Index(port)]) = (address.root, &address.steps[..]) {
            let reason = format!("{} is no name of a port", quoted(port));
            return Err(Issue::error(aim.span, reason).hint("letters, digits, `_`, `-` and `.`, at most 63"));
        }
        if depth >= TEMPLATE_DEPTH_MAX {
            let reason = format!("{} leads back to itself, or too deep", quoted(&written));
            return Err(Issue::error(aim.span, reason));
        }
        let address = match (address.root, &address.steps[..]) {
            ("mesos", [Step::Name("role")]) | ("thermos", [Step::Name("user")]) => {
                Address { root: "role", steps: vec![] }
            }
            ("mesos", [Step::Name("cluster")]) => Address { root: "cluster", steps: vec![] },
            _ => address,
        };
        let Some((value, found_in)) = self.find(scope, address.root, aim.span) else {
            if let Some(bound) = self.bindings.get(text) {
                return self.fill_inside(&bound.clone(), aim, scope, depth + 1);
            }
            let reason = format!("the template {} has no value", quoted(&written));
            let hint = match address.root {
                "thermos" => {
                    Some("known here: thermos.ports[NAME], thermos.task_id, thermos.user".to_owned())
                }
                "mesos" => {
                    Some("known here: mesos.instance, mesos.hostname, mesos.role, mesos.cluster".to_owned())
                }
                root => did_you_mean(root, self.names(scope).iter().map(|name| &**name)),
            };
            let otherwise = if self.is_json(aim.span) {
                literal_hint()
            } else {
                format!("give it one with `.bind({}=...)`; {}", address.root, literal_hint())
            };
            return Err(Issue::error(aim.span, reason).hint(hint.unwrap_or(otherwise)));
        };
        let (value, inner) = self.walk(value, found_in, &address, &written, aim, scope)?;
        match &value.kind {
            Kind::Text(text) => self.fill_inside(&text.clone(), aim, &inner, depth + 1),
            Kind::Int(_) | Kind::Float(_) | Kind::Bool(_) => {
                format::text(&self.run.heap, &value).map_err(|reason| Issue::error(aim.span, reason))
            }
            other => {
                let reason =
                    format!("{} is {}, not a text", quoted(&written), other.describe(&self.run.heap));
                Err(Issue::error(aim.span, reason).also(value.span, "it is given here"))
            }
        }
    }

    /// From the found root down the steps of the address; with the scope of what is there.
    fn walk(
        &mut self,
        mut value: Value,
        found_in: Rc<Scope>,
        address: &Address<'_>,
        written: &str,
        aim: Aim,
        user: &Rc<Scope>,
    ) -> Result<(Value, Rc<Scope>), Fault> {
        let mut scope = found_in;
        for step in &address.steps {
            let next = match (&value.kind, step) {
                (Kind::Struct(id), Step::Name(name)) => {
                    let id = *id;
                    scope = Rc::new(Scope { object: id, parent: Some(scope), user: None });
                    self.own(id, name, aim.span)
                }
                (Kind::Dict(dict), Step::Name(name) | Step::Index(name)) => {
                    let dict = self.run.heap.entries(*dict);
                    let by_text = dict.get(&Value::text(aim.span, name))?;
                    let by_number = match name.parse() {
                        Ok(number) => dict.get(&Value::new(aim.span, Kind::Int(number)))?,
                        Err(_) => None,
                    };
                    by_text.or(by_number).cloned()
                }
                (Kind::List(list) | Kind::Tuple(list), Step::Index(index)) => {
                    index.parse().ok().and_then(|at: usize| self.run.heap.items(*list).get(at)).cloned()
                }
                _ => None,
            };
            let Some(next) = next else {
                let shown = match step {
                    Step::Name(name) => format!(".{name}"),
                    Step::Index(index) => format!("[{index}]"),
                };
                let found = value.kind.describe(&self.run.heap);
                let reason = format!(
                    "the template {} has no value: {found} without {}",
                    quoted(written),
                    quoted(&shown)
                );
                return Err(Issue::error(aim.span, reason).also(value.span, "looked for in this"));
            };
            value = next;
        }
        let inner = Scope { object: scope.object, parent: scope.parent.clone(), user: Some(Rc::clone(user)) };
        Ok((value, Rc::new(inner)))
    }

    /// Looks a name up from the inside out.
    fn find(&self, scope: &Rc<Scope>, name: &str, used_at: Span) -> Option<(Value, Rc<Scope>)> {
        let mut searched = Some(scope);
        while let Some(start) = searched {
            let mut around = Some(start);
            while let Some(scope) = around {
                let bound = self.run.heap.instance(scope.object).bindings.get(name).cloned();
                if let Some(value) = bound.or_else(|| self.own(scope.object, name, used_at)) {
                    return Some((value, Rc::clone(scope)));
                }
                around = scope.parent.as_ref();
            }
            searched = start.user.as_ref();
        }
        None
    }

    /// A field of an object, or its default.
    fn own(&self, id: StructId, name: &str, used_at: Span) -> Option<Value> {
        let instance = self.run.heap.instance(id);
        match instance.fields.get(name) {
            Some(field) if !matches!(field.value.kind, Kind::None) => Some(field.value.clone()),
            _ => match instance.ty.field(name)?.presence {
                Presence::Optional | Presence::Required(_) => None,
                Presence::Default(literal) => Some(from_literal(literal, used_at)),
            },
        }
    }

    /// Names in scope, for hints.
    fn names(&self, scope: &Rc<Scope>) -> Vec<Rc<str>> {
        let mut names = Vec::new();
        let mut around = Some(scope);
        while let Some(scope) = around {
            let instance = self.run.heap.instance(scope.object);
            names.extend(instance.bindings.keys().cloned());
            names.extend(instance.fields.keys().map(|name| Rc::from(*name)));
            around = scope.parent.as_ref();
        }
        names
    }
}

/// No more than this many problems are looked for.
pub(crate) const ISSUES_ENOUGH: usize = 100;

fn from_literal(literal: Literal, span: Span) -> Value {
    let kind = match literal {
        Literal::Int(int) => Kind::Int(int),
        Literal::Bool(bool) => Kind::Bool(bool),
        Literal::Text(text) => Kind::Text(text.into()),
    };
    Value::new(span, kind)
}

fn wanted(ty: &Type) -> String {
    match ty {
        Type::Text => "a text".to_owned(),
        Type::Int => "a whole number".to_owned(),
        Type::Bytes => "a number of bytes".to_owned(),
        Type::Float => "a number".to_owned(),
        Type::Bool => "true or false".to_owned(),
        Type::OneOf(words) => format!("one of {}", words.join(", ")),
        Type::Struct(types) => {
            let names: Vec<String> = types.iter().map(|ty| format!("`{}`", ty.name)).collect();
            format!("a {}", names.join(" or "))
        }
        Type::List(element) => match element {
            Type::Struct([ty, ..]) => format!("a list of `{}`", ty.name),
            Type::Int => "a list of whole numbers".to_owned(),
            _ => "a list of texts".to_owned(),
        },
        Type::Map => "a dict of texts".to_owned(),
    }
}

/// A number or truth value that came out of a text.
fn parsed(text: &str, ty: &Type) -> Option<Data> {
    let float = || text.parse::<f64>().ok().filter(|float| float.is_finite());
    match ty {
        Type::Int => text.parse().ok().or_else(|| format::whole(float()?)).map(Data::Int),
        Type::Bytes => text.parse().ok().or_else(|| format::whole(float()?.ceil())).map(Data::Int),
        Type::Float => float().map(Data::Float),
        Type::Bool => match text {
            "true" | "True" | "1" => Some(Data::Bool(true)),
            "false" | "False" | "0" => Some(Data::Bool(false)),
            _ => None,
        },
        _ => None,
    }
}

/// `128MB` in quotes is `128*MB`.
fn unit_hint(text: &str) -> Option<String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at_checked(digits)?;
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" | "ki" => "KB",
        "m" | "mb" | "mib" | "mi" => "MB",
        "g" | "gb" | "gib" | "gi" => "GB",
        "t" | "tb" | "tib" | "ti" => "TB",
        _ => return None,
    };
    (!number.is_empty()).then(|| format!("write `{number}*{unit}`, without quotes"))
}

/// Whether an unsupported field asks for exactly what happens anyway.
fn changes_nothing(field: &str, typed: &Typed) -> bool {
    match (field, &typed.data) {
        ("enable_hooks", Data::Bool(false)) => true,
        ("task_links", Data::Map(links)) => links.is_empty(),
        ("lifecycle", Data::Object(lifecycle)) => lifecycle.get("http").is_none(),
        ("executor_config", Data::Object(executor)) => {
            matches!(executor.text("name"), "" | "AuroraExecutor") && executor.text("data").is_empty()
        }
        _ => false,
    }
}

/// A field's example as it stands in a JSON file.
fn json_example(name: &str, example: &str) -> String {
    let value = example.split_once('=').map_or("", |(_, value)| value);
    match name {
        "resources" => r#""resources": {"cpu": 0.5, "ram": 134217728, "disk": 134217728}"#.to_owned(),
        "processes" => r#""processes": [{"name": "web", "cmdline": "./run.sh"}]"#.to_owned(),
        _ if value.contains("MB") => format!("\"{name}\": 134217728"),
        _ if value.ends_with("(...)") => format!("\"{name}\": {{...}}"),
        _ => format!("\"{name}\": {}", value.replace('\'', "\"")),
    }
}
