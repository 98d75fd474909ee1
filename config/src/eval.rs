//! The evaluator: walks the syntax tree of an `.aurora` file and makes values of it, within a budget.
//!
//! It knows a part of Python: assignments, calls, literals, arithmetic, texts. What it does not know it names,
//! at its place. It can reach nothing outside the file. A statement is one arm of [`Evaluator::statement`], an
//! expression one arm of [`Evaluator::expression`]; functions, loops and classes will be further arms and a
//! stack of scopes above `globals`. Not here: what objects mean (`object`, `resolve`).

use std::collections::BTreeMap;
use std::rc::Rc;

use ruff_python_ast::{self as ast, Expr, InterpolatedStringElement, Stmt};
use ruff_text_size::{Ranged, TextRange};

use crate::builtin;
use crate::format;
use crate::limits::Budget;
use crate::object;
use crate::operate;
use crate::problem::{Fault, Issue, did_you_mean, quoted};
use crate::schema::{NOT_YET, StructType};
use crate::source::{Sources, Span};
use crate::value::{Dict, Field, Heap, Instance, Kind, VALUE_BYTES, Value};

/// What all stages of reading one file share.
pub(crate) struct Run<'s> {
    pub(crate) sources: &'s Sources<'s>,
    pub(crate) heap: Heap,
    pub(crate) budget: Budget,
}

impl<'s> Run<'s> {
    pub(crate) fn new(sources: &'s Sources<'s>) -> Self {
        Run { sources, heap: Heap::default(), budget: Budget::new() }
    }
}

/// One file being evaluated.
pub(crate) struct Evaluator<'r, 's> {
    pub(crate) run: &'r mut Run<'s>,
    globals: BTreeMap<String, Value>,
    file: u16,
}

/// What a call was given.
pub(crate) struct Arguments {
    /// The whole call.
    pub(crate) span: Span,
    pub(crate) positional: Vec<Value>,
    pub(crate) keywords: Vec<(Rc<str>, Field)>,
}

impl Arguments {
    pub(crate) fn no_keywords(&self, function: &str) -> Result<(), Fault> {
        match self.keywords.first() {
            Some((name, field)) => {
                Err(Issue::error(field.at, format!("`{function}` takes no argument {}", quoted(name))))
            }
            None => Ok(()),
        }
    }

    /// Arguments that must all be there, by place or by name.
    pub(crate) fn exactly<const N: usize>(
        self,
        function: &str,
        names: [&str; N],
    ) -> Result<[Value; N], Fault> {
        let mut given: [Option<Value>; N] = [const { None }; N];
        if let Some(extra) = self.positional.get(N) {
            let reason = format!("`{function}` takes {N} argument{}", if N == 1 { "" } else { "s" });
            return Err(Issue::error(extra.span, reason));
        }
        for (slot, value) in given.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, field) in self.keywords {
            let slot = names.iter().position(|known| **known == *name).and_then(|at| given.get_mut(at));
            match slot {
                Some(slot @ None) => *slot = Some(field.value),
                Some(_) => {
                    let reason = format!("`{function}` is given {} twice", quoted(&name));
                    return Err(Issue::error(field.at, reason));
                }
                None => {
                    let reason = format!("`{function}` takes no argument {}", quoted(&name));
                    return Err(Issue::error(field.at, reason).maybe_hint(did_you_mean(&name, names)));
                }
            }
        }
        let missing = names.iter().zip(&given).find(|(_, value)| value.is_none()).map(|(name, _)| *name);
        if let Some(missing) = missing {
            return Err(Issue::error(self.span, format!("`{function}` needs `{missing}`")));
        }
        Ok(given.map(|value| value.unwrap_or(Value::new(self.span, Kind::None))))
    }
}

impl<'r, 's> Evaluator<'r, 's> {
    pub(crate) fn new(run: &'r mut Run<'s>, file: u16) -> Self {
        Evaluator { run, globals: BTreeMap::new(), file }
    }

    /// Runs a file; what it assigned is what it means.
    pub(crate) fn module(mut self, body: &[Stmt]) -> Result<BTreeMap<String, Value>, Fault> {
        for statement in body {
            self.statement(statement)?;
        }
        Ok(self.globals)
    }

    fn span(&self, range: TextRange) -> Span {
        Span::new(self.file, range.start().to_usize(), range.end().to_usize())
    }

    /// The first word of a statement, which is its name.
    fn keyword(&self, statement: &Stmt, word: &str) -> Span {
        let start = statement.range().start().to_usize();
        Span::new(self.file, start, start + word.len())
    }

    fn not_yet(span: Span, construct: &str) -> Fault {
        Issue::error(span, format!("{construct} is not understood here yet"))
    }

    fn statement(&mut self, statement: &Stmt) -> Result<(), Fault> {
        self.run.budget.step(self.span(statement.range()))?;
        let (word, hint) = match statement {
            Stmt::Assign(assign) => {
                let value = self.expression(&assign.value)?;
                for target in &assign.targets {
                    self.assign(target, value.clone())?;
                }
                return Ok(());
            }
            Stmt::AugAssign(assign) => {
                let span = self.span(assign.range);
                let old = self.expression(&assign.target)?;
                let new = self.expression(&assign.value)?;
                if let (ast::Operator::Add, Kind::List(list)) = (assign.op, &old.kind) {
                    let more = self.elements(&new)?;
                    self.run.budget.charge(span, VALUE_BYTES * more.len())?;
                    self.run.heap.items_mut(*list).extend(more);
                    return Ok(());
                }
                let value = operate::binary(self, assign.op, &old, &new, span)?;
                return self.assign(&assign.target, value);
            }
            Stmt::Expr(expression) => return self.expression(&expression.value).map(drop),
            Stmt::Pass(_) => return Ok(()),
            Stmt::Import(_) => {
                ("import", "write the value itself; the job language's names are always there")
            }
            Stmt::ImportFrom(_) => {
                ("from", "write the value itself; the job language's names are always there")
            }
            Stmt::FunctionDef(ast::StmtFunctionDef { decorator_list: decorators, .. })
            | Stmt::ClassDef(ast::StmtClassDef { decorator_list: decorators, .. })
                if !decorators.is_empty() =>
            {
                let span =
                    decorators.first().map_or(self.span(statement.range()), |first| self.span(first.range));
                return Err(Self::not_yet(span, "a decorator"));
            }
            Stmt::FunctionDef(_) => {
                ("def", "write the objects out, or call one as a template: `base(name='x')`")
            }
            Stmt::ClassDef(_) => ("class", "use a dict with `.bind(...)`"),
            Stmt::For(_) => ("for", "write the objects out"),
            Stmt::While(_) => ("while", "write the objects out"),
            Stmt::If(_) => ("if", ""),
            Stmt::With(_) => ("with", ""),
            Stmt::Match(_) => ("match", ""),
            Stmt::Raise(_) => ("raise", ""),
            Stmt::Try(_) => ("try", ""),
            Stmt::Assert(_) => ("assert", ""),
            Stmt::Delete(_) => ("del", ""),
            Stmt::Return(_) => ("return", ""),
            Stmt::Global(_) => ("global", ""),
            Stmt::Nonlocal(_) => ("nonlocal", ""),
            Stmt::Break(_) => ("break", ""),
            Stmt::Continue(_) => ("continue", ""),
            Stmt::TypeAlias(_) => ("type", ""),
            Stmt::AnnAssign(annotated) => {
                let span = self.span(annotated.annotation.range());
                return Err(Self::not_yet(span, "an annotation"));
            }
            Stmt::IpyEscapeCommand(command) => {
                return Err(Self::not_yet(self.span(command.range), "a shell command"));
            }
        };
        let is_async = self.run.sources.get(self.keyword(statement, word)).is_some_and(|source| {
            source
                .text
                .get(statement.range().start().to_usize()..)
                .is_some_and(|text| text.starts_with("async"))
        });
        let (word, hint) = if is_async { ("async", "") } else { (word, hint) };
        let named = self.keyword(statement, word);
        let fault =
            Self::not_yet(named, &format!("`{}`", if word == "from" { "from ... import" } else { word }));
        Err(if hint.is_empty() { fault } else { fault.hint(hint) })
    }

    fn assign(&mut self, target: &Expr, value: Value) -> Result<(), Fault> {
        let span = self.span(target.range());
        match target {
            Expr::Name(name) => {
                self.run.budget.charge(span, VALUE_BYTES + name.id.len())?;
                self.globals.insert(name.id.to_string(), value);
            }
            Expr::Tuple(ast::ExprTuple { elts, .. }) | Expr::List(ast::ExprList { elts, .. }) => {
                let values = self.elements(&value)?;
                if values.len() != elts.len() {
                    let reason = format!("{} names for {} values", elts.len(), values.len());
                    return Err(Issue::error(span, reason).also(value.span, "the values"));
                }
                for (target, value) in elts.iter().zip(values) {
                    self.assign(target, value)?;
                }
            }
            Expr::Subscript(subscript) => {
                let owner = self.expression(&subscript.value)?;
                let key = self.expression(&subscript.slice)?;
                match owner.kind {
                    Kind::Dict(dict) => {
                        self.run.budget.charge(span, crate::value::ENTRY_BYTES)?;
                        self.run.heap.entries_mut(dict).insert(key, value)?;
                    }
                    Kind::List(list) => {
                        let at = operate::index(&key, self.run.heap.items(list).len())?;
                        if let Some(slot) = self.run.heap.items_mut(list).get_mut(at) {
                            *slot = value;
                        }
                    }
                    other => {
                        let reason =
                            format!("an element of {} cannot be set", other.describe(&self.run.heap));
                        return Err(Issue::error(span, reason));
                    }
                }
            }
            Expr::Attribute(attribute) => {
                let reason = "fields cannot be set from outside";
                let hint = format!("make a changed copy: `new = old({}=...)`", attribute.attr.as_str());
                return Err(Issue::error(span, reason).hint(hint));
            }
            other => return Err(Self::not_yet(self.span(other.range()), "this kind of assignment")),
        }
        Ok(())
    }

    /// The value of an expression.
    pub(crate) fn expression(&mut self, expression: &Expr) -> Result<Value, Fault> {
        let span = self.span(expression.range());
        self.run.budget.enter(span)?;
        let value = self.expression_inside(expression, span);
        self.run.budget.leave();
        value
    }

    fn expression_inside(&mut self, expression: &Expr, span: Span) -> Result<Value, Fault> {
        let construct = match expression {
            Expr::Name(name) => return self.name(&name.id, span),
            Expr::StringLiteral(literal) => return self.text(span, literal.value.to_str()),
            Expr::FString(literal) => return self.f_string(literal, span),
            Expr::NumberLiteral(literal) => {
                let kind = match &literal.value {
                    ast::Number::Int(int) => match int.as_i64() {
                        Some(int) => Kind::Int(int),
                        None => return Err(Issue::error(span, "this number is too large")),
                    },
                    ast::Number::Float(float) if float.is_finite() => Kind::Float(*float),
                    ast::Number::Float(_) => return Err(Issue::error(span, "this number is too large")),
                    ast::Number::Complex { .. } => return Err(Self::not_yet(span, "a complex number")),
                };
                return Ok(Value::new(span, kind));
            }
            Expr::BooleanLiteral(literal) => return Ok(Value::new(span, Kind::Bool(literal.value))),
            Expr::NoneLiteral(_) => return Ok(Value::new(span, Kind::None)),
            Expr::List(list) => {
                let items = self.items(&list.elts)?;
                return self.list(span, items);
            }
            Expr::Tuple(tuple) => {
                let items = self.items(&tuple.elts)?;
                let id = self.run.heap.list(&mut self.run.budget, span, items)?;
                return Ok(Value::new(span, Kind::Tuple(id)));
            }
            Expr::Dict(literal) => return self.dict_literal(literal, span),
            Expr::BinOp(binary) => {
                let left = self.expression(&binary.left)?;
                let right = self.expression(&binary.right)?;
                return operate::binary(self, binary.op, &left, &right, span);
            }
            Expr::UnaryOp(unary) if matches!(unary.op, ast::UnaryOp::USub | ast::UnaryOp::UAdd) => {
                let value = self.expression(&unary.operand)?;
                return operate::signed(unary.op == ast::UnaryOp::USub, &value, span, &self.run.heap);
            }
            Expr::Call(call) => return self.call(call, span),
            Expr::Attribute(attribute) => {
                let owner = self.expression(&attribute.value)?;
                let name_span = self.span(attribute.attr.range);
                return builtin::attribute(self, owner, attribute.attr.as_str(), name_span, span);
            }
            Expr::Subscript(subscript) => {
                let owner = self.expression(&subscript.value)?;
                let key = self.expression(&subscript.slice)?;
                return self.element(&owner, &key, span);
            }
            Expr::UnaryOp(unary) => return Err(Self::not_yet(span, &format!("`{}`", unary.op))),
            Expr::BoolOp(bool) => return Err(Self::not_yet(span, &format!("`{}`", bool.op))),
            Expr::Compare(compare) => match compare.ops.first() {
                Some(op) => return Err(Self::not_yet(span, &format!("`{}`", op.as_str()))),
                None => "a comparison",
            },
            Expr::Named(_) => "`:=`",
            Expr::Lambda(_) => "`lambda`",
            Expr::If(_) => "`... if ... else ...`",
            Expr::Set(_) => "a set",
            Expr::ListComp(_) => "a list comprehension",
            Expr::SetComp(_) => "a set comprehension",
            Expr::DictComp(_) => "a dict comprehension",
            Expr::Generator(_) => "a generator",
            Expr::Await(_) => "`await`",
            Expr::Yield(_) | Expr::YieldFrom(_) => "`yield`",
            Expr::TString(_) => "a template string",
            Expr::BytesLiteral(_) => "a bytes literal",
            Expr::EllipsisLiteral(_) => "`...`",
            Expr::Starred(_) => "`*` here",
            Expr::Slice(_) => "a slice",
            Expr::IpyEscapeCommand(_) => "a shell command",
        };
        Err(Self::not_yet(span, construct))
    }

    fn name(&mut self, name: &str, span: Span) -> Result<Value, Fault> {
        if let Some(value) = self.globals.get(name) {
            // An object knows where it was made; what matters besides is where it is used. Plain data is blamed
            // where it was written.
            let span = if matches!(value.kind, Kind::Struct(_)) { span } else { value.span };
            return Ok(Value { span, kind: value.kind.clone() });
        }
        if let Some(value) = builtin::predefined(self, name, span)? {
            return Ok(value);
        }
        if NOT_YET.contains(&name) {
            return Err(Self::not_yet(span, &format!("`{name}`")));
        }
        let known = self.globals.keys().map(String::as_str).chain(builtin::predefined_names());
        let hint = match name {
            "true" => Some("did you mean `True`?".to_owned()),
            "false" => Some("did you mean `False`?".to_owned()),
            "null" | "nil" => Some("did you mean `None`?".to_owned()),
            _ => did_you_mean(name, known),
        };
        Err(Issue::error(span, format!("{} is not defined", quoted(name))).maybe_hint(hint))
    }

    /// Elements of a list or a tuple literal, or arguments by place.
    fn items(&mut self, expressions: &[Expr]) -> Result<Vec<Value>, Fault> {
        let mut items = Vec::new();
        for expression in expressions {
            match expression {
                Expr::Starred(starred) => {
                    let list = self.expression(&starred.value)?;
                    items.extend(self.elements(&list)?);
                }
                plain => items.push(self.expression(plain)?),
            }
        }
        Ok(items)
    }

    fn dict_literal(&mut self, literal: &ast::ExprDict, span: Span) -> Result<Value, Fault> {
        let mut dict = Dict::default();
        for item in &literal.items {
            let Some(key) = &item.key else {
                let more = self.expression(&item.value)?;
                let Kind::Dict(id) = more.kind else {
                    return Err(Issue::error(more.span, "`**` here takes a dict"));
                };
                let charge = crate::value::ENTRY_BYTES * self.run.heap.entries(id).items().len();
                self.run.budget.charge(span, charge)?;
                for (key, value) in self.run.heap.entries(id).items() {
                    dict.insert(key.clone(), value.clone())?;
                }
                continue;
            };
            let key = self.expression(key)?;
            let key_span = key.span;
            let value = self.expression(&item.value)?;
            if let Some((before, _)) = dict.insert(key, value)? {
                let fault = Issue::error(key_span, "this key is there twice");
                return Err(fault.also(before.span, "first here"));
            }
        }
        self.dict(span, dict)
    }

    fn f_string(&mut self, literal: &ast::ExprFString, span: Span) -> Result<Value, Fault> {
        let mut text = String::new();
        for part in literal.value.iter() {
            match part {
                ast::FStringPart::Literal(literal) => text.push_str(literal.as_str()),
                ast::FStringPart::FString(template) => {
                    for element in &*template.elements {
                        match element {
                            InterpolatedStringElement::Literal(literal) => text.push_str(&literal.value),
                            InterpolatedStringElement::Interpolation(element) => {
                                let part = self.f_string_element(element)?;
                                self.run.budget.charge(span, part.len())?;
                                text.push_str(&part);
                            }
                        }
                    }
                }
            }
        }
        self.text(span, &text)
    }

    fn f_string_element(&mut self, element: &ast::InterpolatedElement) -> Result<String, Fault> {
        let span = self.span(element.range);
        let value = self.expression(&element.expression)?;
        if element.debug_text.is_some() {
            return Err(Self::not_yet(span, "`=` in an f-string"));
        }
        let mut spec = String::new();
        for part in element.format_spec.iter().flat_map(|spec| &*spec.elements) {
            match part {
                InterpolatedStringElement::Literal(literal) => spec.push_str(&literal.value),
                InterpolatedStringElement::Interpolation(_) => {
                    return Err(Self::not_yet(span, "a format inside a format"));
                }
            }
        }
        let conversion = element.conversion.to_char();
        format::formatted(&self.run.heap, &value, conversion, &spec)
            .map_err(|reason| Issue::error(span, reason))
    }

    fn call(&mut self, call: &ast::ExprCall, span: Span) -> Result<Value, Fault> {
        let called = self.span(call.func.range());
        let function = self.expression(&call.func)?;
        let positional = self.items(&call.arguments.args)?;
        let mut keywords: Vec<(Rc<str>, Field)> = Vec::new();
        for keyword in &call.arguments.keywords {
            let value = self.expression(&keyword.value)?;
            if let Some(name) = &keyword.arg {
                keywords.push((name.as_str().into(), Field { at: self.span(name.range), value }));
                continue;
            }
            let Kind::Dict(dict) = value.kind else {
                return Err(Issue::error(value.span, "`**` here takes a dict"));
            };
            let charge = crate::value::ENTRY_BYTES * self.run.heap.entries(dict).items().len();
            self.run.budget.charge(span, charge)?;
            for (key, value) in self.run.heap.entries(dict).items() {
                let Kind::Text(name) = &key.kind else {
                    return Err(Issue::error(key.span, "names of arguments are texts"));
                };
                keywords.push((name.clone(), Field { at: key.span, value: value.clone() }));
            }
        }
        let args = Arguments { span, positional, keywords };
        match &function.kind {
            Kind::Type(ty) => self.construct(ty, None, called, args),
            Kind::Struct(id) => {
                let base = self.run.heap.instance(*id).clone();
                self.construct(base.ty, Some(&base), called, args)
            }
            Kind::Builtin(function) => builtin::call(self, *function, called, args),
            Kind::Method(method, owner) => builtin::call_method(self, *method, owner, args),
            Kind::Getter(id, field) => {
                args.exactly(field, [])?;
                let given = self.run.heap.instance(*id).fields.get(field);
                Ok(given.map_or(Value::new(span, Kind::None), |given| given.value.clone()))
            }
            other => {
                let reason = format!("{} cannot be called", other.describe(&self.run.heap));
                Err(Issue::error(called, reason))
            }
        }
    }

    fn element(&mut self, owner: &Value, key: &Value, span: Span) -> Result<Value, Fault> {
        match &owner.kind {
            Kind::List(list) | Kind::Tuple(list) => {
                let items = self.run.heap.items(*list);
                let at = operate::index(key, items.len())?;
                Ok(items.get(at).cloned().unwrap_or(Value::new(span, Kind::None)))
            }
            Kind::Dict(dict) => {
                let dict = self.run.heap.entries(*dict);
                if let Some(value) = dict.get(key)? {
                    return Ok(value.clone());
                }
                let known = dict.items().iter().filter_map(|(key, _)| match &key.kind {
                    Kind::Text(text) => Some(&**text),
                    _ => None,
                });
                let hint = match &key.kind {
                    Kind::Text(text) => did_you_mean(text, known),
                    _ => None,
                };
                let shown = format::text(&self.run.heap, key).unwrap_or_default();
                Err(Issue::error(key.span, format!("the dict has no key {}", quoted(&shown)))
                    .maybe_hint(hint))
            }
            Kind::Text(text) => {
                let at = operate::index(key, text.chars().count())?;
                let text: String = text.chars().skip(at).take(1).collect();
                self.text(span, &text)
            }
            other => {
                let reason = format!("{} has no elements", other.describe(&self.run.heap));
                Err(Issue::error(span, reason))
            }
        }
    }

    /// Makes an object of the job language, or a changed copy of one.
    pub(crate) fn construct(
        &mut self,
        ty: &'static StructType,
        base: Option<&Instance>,
        called: Span,
        args: Arguments,
    ) -> Result<Value, Fault> {
        let span = args.span;
        let mut given = Vec::new();
        for from in &args.positional {
            let Kind::Dict(dict) = from.kind else {
                let name = ty.fields.first().map_or("name", |field| field.name);
                let reason = format!("`{}` takes its fields by name", ty.name);
                return Err(Issue::error(from.span, reason).hint(format!("write `{name}=...`")));
            };
            for (key, value) in self.run.heap.entries(dict).items() {
                let Kind::Text(name) = &key.kind else {
                    return Err(Issue::error(key.span, "names of fields are texts"));
                };
                given.push((name.clone(), Field { at: key.span, value: value.clone() }));
            }
        }
        given.extend(args.keywords);
        let mut instance = match base {
            Some(base) => Instance { called, span, ..base.clone() },
            None => Instance { ty, called, span, fields: BTreeMap::new(), bindings: BTreeMap::new() },
        };
        object::set(self.run, &mut instance, given)?;
        let id = self.run.heap.object(&mut self.run.budget, instance)?;
        Ok(Value::new(span, Kind::Struct(id)))
    }

    /// An object from fields that are known to be its own.
    pub(crate) fn object(
        &mut self,
        ty: &'static StructType,
        called: Span,
        span: Span,
        fields: BTreeMap<&'static str, Field>,
    ) -> Result<Value, Fault> {
        let instance = Instance { ty, called, span, fields, bindings: BTreeMap::new() };
        let id = self.run.heap.object(&mut self.run.budget, instance)?;
        Ok(Value::new(span, Kind::Struct(id)))
    }

    pub(crate) fn text(&mut self, span: Span, text: &str) -> Result<Value, Fault> {
        self.run.budget.text(span, text.len())?;
        Ok(Value::text(span, text))
    }

    pub(crate) fn list(&mut self, span: Span, items: Vec<Value>) -> Result<Value, Fault> {
        let id = self.run.heap.list(&mut self.run.budget, span, items)?;
        Ok(Value::new(span, Kind::List(id)))
    }

    pub(crate) fn dict(&mut self, span: Span, dict: Dict) -> Result<Value, Fault> {
        let id = self.run.heap.dict(&mut self.run.budget, span, dict)?;
        Ok(Value::new(span, Kind::Dict(id)))
    }

    /// What a list, tuple or dict (its keys) yields one by one.
    pub(crate) fn elements(&mut self, value: &Value) -> Result<Vec<Value>, Fault> {
        let items: Vec<Value> = match &value.kind {
            Kind::List(list) | Kind::Tuple(list) => {
                let items = self.run.heap.items(*list);
                self.run.budget.charge(value.span, VALUE_BYTES * items.len())?;
                items.to_vec()
            }
            Kind::Dict(dict) => {
                let items = self.run.heap.entries(*dict).items();
                self.run.budget.charge(value.span, VALUE_BYTES * items.len())?;
                items.iter().map(|(key, _)| key.clone()).collect()
            }
            other => {
                let reason = format!("this must be a list, not {}", other.describe(&self.run.heap));
                return Err(Issue::error(value.span, reason));
            }
        };
        Ok(items)
    }
}
