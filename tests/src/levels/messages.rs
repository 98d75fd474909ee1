//! Are today's messages those of a frozen level, or more? Bytes that were written by either are read by the other.
//!
//! A field may be added, and may get another name. One that was there keeps its number and type, or its number is
//! reserved; the same holds for the values of an enum and the calls of a service. Pure, but for `compile`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// All .proto files under `root`, a copy of the folder `proto`.
pub fn compile(root: &Path) -> Result<FileDescriptorSet> {
    let mut files = Vec::new();
    for folder in ["borealis", "rpc"] {
        let dir = root.join(folder);
        for entry in std::fs::read_dir(&dir).with_context(|| format!("listing {}", dir.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "proto") {
                files.push(path);
            }
        }
    }
    files.sort();
    protox::compile(files, [root.join("rpc"), root.to_owned()])
        .with_context(|| format!("the .proto files under {}", root.display()))
}

/// The messages, enums and services of all files, by full name.
#[derive(Default)]
struct Book<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
    /// `SERVICE/CALL`, and what it takes and gives.
    calls: BTreeMap<String, String>,
}

impl<'a> Book<'a> {
    fn of(set: &'a FileDescriptorSet) -> Book<'a> {
        let mut book = Book::default();
        for file in &set.file {
            let package = file.package();
            file.message_type.iter().for_each(|message| book.message(package, message));
            for found in &file.enum_type {
                book.enums.insert(format!("{package}.{}", found.name()), found);
            }
            for service in &file.service {
                for call in &service.method {
                    let stream = |is: bool| if is { "stream " } else { "" };
                    let what = format!(
                        "{}{} -> {}{}",
                        stream(call.client_streaming()),
                        call.input_type(),
                        stream(call.server_streaming()),
                        call.output_type()
                    );
                    book.calls.insert(format!("{package}.{}/{}", service.name(), call.name()), what);
                }
            }
        }
        book
    }

    fn message(&mut self, within: &str, message: &'a DescriptorProto) {
        let name = format!("{within}.{}", message.name());
        for found in &message.enum_type {
            self.enums.insert(format!("{name}.{}", found.name()), found);
        }
        message.nested_type.iter().for_each(|nested| self.message(&name, nested));
        self.messages.insert(name, message);
    }
}

/// What a field is on the wire. Whether its absence is seen is not.
fn shape(field: &FieldDescriptorProto) -> String {
    let repeated = match field.label() {
        prost_types::field_descriptor_proto::Label::Repeated => "repeated ",
        _ => "",
    };
    format!("{repeated}{} {}", field.r#type().as_str_name(), field.type_name()).trim_end().to_owned()
}

/// A member of a oneof of several; an optional field has one of its own.
fn choice<'a>(message: &'a DescriptorProto, field: &FieldDescriptorProto) -> Option<&'a str> {
    let index = field.oneof_index.filter(|_| !field.proto3_optional())?;
    message.oneof_decl.get(index as usize).map(|of| of.name())
}

/// What of a frozen level is not so today; empty = each reads what the other writes.
pub fn breaches(frozen: &FileDescriptorSet, today: &FileDescriptorSet) -> Vec<String> {
    let (frozen, today) = (Book::of(frozen), Book::of(today));
    let mut found = Vec::new();
    for (name, old) in &frozen.messages {
        match today.messages.get(name) {
            None => found.push(format!("{name} is gone; it must stay, even if nothing writes it any more")),
            Some(new) => found.extend(message_breaches(name, old, new)),
        }
    }
    for (name, old) in &frozen.enums {
        let Some(new) = today.enums.get(name) else {
            found.push(format!("{name} is gone; it must stay, even if nothing writes it any more"));
            continue;
        };
        for value in &old.value {
            let number = value.number();
            let stays = new.value.iter().any(|now| now.number() == number);
            let reserved = new.reserved_range.iter().any(|r| (r.start()..=r.end()).contains(&number));
            if !stays && !reserved {
                found.push(format!("{name}.{} = {number} is gone; reserve its number", value.name()));
            }
            if let Some(now) =
                new.value.iter().find(|now| now.name() == value.name() && now.number() != number)
            {
                found.push(format!("{name}.{} was {number} and is {} now", value.name(), now.number()));
            }
        }
    }
    for (name, old) in &frozen.calls {
        match today.calls.get(name) {
            None => found.push(format!("the call {name} is gone; older programs make it")),
            Some(new) if new != old => found.push(format!("the call {name} was {old} and is {new} now")),
            Some(_) => {}
        }
    }
    found
}

fn message_breaches(name: &str, old: &DescriptorProto, new: &DescriptorProto) -> Vec<String> {
    let mut found = Vec::new();
    for field in &old.field {
        let (number, label) = (field.number(), format!("{name}.{} = {}", field.name(), field.number()));
        if let Some(now) = new.field.iter().find(|now| now.name() == field.name() && now.number() != number) {
            found.push(format!("{label} has the number {} now", now.number()));
        }
        let Some(now) = new.field.iter().find(|now| now.number() == number) else {
            // The end of a message's range is the number behind it.
            if !new.reserved_range.iter().any(|range| (range.start()..range.end()).contains(&number)) {
                found.push(format!("{label} is gone; reserve its number"));
            }
            continue;
        };
        if shape(now) != shape(field) {
            found.push(format!("{label} was {} and is {} now", shape(field), shape(now)));
        }
        if choice(old, field).is_some() != choice(new, now).is_some() {
            found.push(format!("{label} went into a oneof, or out of one"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> FileDescriptorSet {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("borealis")).unwrap();
        std::fs::create_dir_all(dir.path().join("rpc")).unwrap();
        std::fs::write(
            dir.path().join("borealis/x.proto"),
            format!("syntax = \"proto3\";\npackage b;\n{text}"),
        )
        .unwrap();
        compile(dir.path()).unwrap()
    }

    #[test]
    fn what_breaks_the_wire_is_found_and_what_does_not_is_not() {
        let frozen = "message A { uint32 a = 1; repeated string b = 2; oneof c { bool d = 3; A e = 4; } K k = 5; \
                      message N { uint64 n = 1; } }\nenum K { ZERO = 0; ONE = 1; }\n\
                      service S { rpc Ask(A) returns (stream A); }";
        let cases = [
            // What is changed to what, and the words of the complaint; none = it may be done.
            ("", "", ""),
            ("K k = 5;", "K k = 5; uint32 more = 6;", ""),
            ("K k = 5;", "K other = 5;", ""),
            ("K k = 5;", "reserved 5;", ""),
            ("ONE = 1;", "ONE = 1; TWO = 2;", ""),
            ("ONE = 1;", "reserved 1;", ""),
            ("uint32 a = 1;", "optional uint32 a = 1;", ""),
            ("K k = 5;", "", "b.A.k = 5 is gone"),
            ("K k = 5;", "K k = 7; reserved 5;", "b.A.k = 5 has the number 7 now"),
            ("uint32 a = 1;", "uint64 a = 1;", "b.A.a = 1 was TYPE_UINT32 and is TYPE_UINT64 now"),
            ("uint32 a = 1;", "repeated uint32 a = 1;", "is repeated TYPE_UINT32 now"),
            ("A e = 4;", "N e = 4;", "b.A.e = 4 was TYPE_MESSAGE .b.A"),
            ("bool d = 3;", "", "b.A.d = 3 is gone"),
            (
                "bool d = 3; A e = 4; }",
                "A e = 4; } bool d = 3;",
                "b.A.d = 3 went into a oneof, or out of one",
            ),
            ("message N { uint64 n = 1; }", "", "b.A.N is gone"),
            ("ONE = 1;", "", "b.K.ONE = 1 is gone"),
            ("ONE = 1;", "ONE = 2; reserved 1;", "b.K.ONE was 1 and is 2 now"),
            ("(stream A)", "(A)", "the call b.S/Ask was .b.A -> stream .b.A"),
            ("rpc Ask(A) returns (stream A);", "", "the call b.S/Ask is gone"),
        ];
        for (from, to, complaint) in cases {
            let today = frozen.replacen(from, to, 1);
            let found = breaches(&set(frozen), &set(&today));
            match complaint {
                "" => assert_eq!(found, [""; 0], "{from} -> {to}"),
                _ => assert!(found.len() == 1 && found[0].contains(complaint), "{from} -> {to}: {found:?}"),
            }
        }
    }
}
