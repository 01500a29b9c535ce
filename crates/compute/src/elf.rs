//! Names in the dynamic symbol table of an ELF file (64-bit, little-endian).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Why a file's dynamic symbols cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Cannot be opened or read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// Not a 64-bit little-endian ELF file.
    #[error("is not a 64-bit little-endian ELF file")]
    NotElf,
    /// Linked statically: a preload library cannot stand between it and the kernel.
    #[error("has no dynamic symbols: it is linked statically")]
    Static,
    /// Tables that point outside of the file or contradict each other.
    #[error("has a damaged {0}")]
    Damaged(&'static str),
}

/// The names of a dynamic symbol table, without versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynamicSymbols {
    /// What the file wants from others, functions and data.
    pub imported: Vec<String>,
    /// Functions and data that it offers to others.
    pub exported: Vec<String>,
}

const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;
const DYNSYM: u32 = 11;
const STRTAB: u32 = 3;
/// No real table is larger; a damaged size must not ask for gigabytes.
const TABLE_LIMIT: u64 = 256 << 20;

/// Reads the symbols of the file at `path`.
///
/// # Errors
/// Not readable, not such a file, static, damaged.
pub fn dynamic_symbols(path: &Path) -> Result<DynamicSymbols, Error> {
    let file = File::open(path)?;
    let image = Image { length: file.metadata()?.len(), file };
    let sections = image.sections()?;
    let symbols = sections.iter().find(|section| section.kind == DYNSYM).ok_or(Error::Static)?;
    let names = sections
        .get(symbols.link as usize)
        .filter(|section| section.kind == STRTAB)
        .ok_or(Error::Damaged("symbol table"))?;
    let symbols = image.bytes(symbols.offset, symbols.size, "symbol table")?;
    let names = image.bytes(names.offset, names.size, "string table")?;
    collect(&symbols, &names)
}

fn collect(symbols: &[u8], names: &[u8]) -> Result<DynamicSymbols, Error> {
    let mut found = DynamicSymbols { imported: Vec::new(), exported: Vec::new() };
    // The first entry is reserved and empty.
    for symbol in symbols.chunks_exact(SYMBOL).skip(1) {
        let name = name_at(names, u32_at(symbol, 0) as usize)?;
        let local = symbol[4] >> 4 == 0;
        let undefined = u16_at(symbol, 6) == 0;
        if name.is_empty() || local {
            continue;
        }
        if undefined { &mut found.imported } else { &mut found.exported }.push(name);
    }
    Ok(found)
}

fn name_at(names: &[u8], at: usize) -> Result<String, Error> {
    let rest = names.get(at..).ok_or(Error::Damaged("string table"))?;
    let end = rest.iter().position(|&byte| byte == 0).ok_or(Error::Damaged("string table"))?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}

struct Section {
    kind: u32,
    offset: u64,
    size: u64,
    link: u32,
}

struct Image {
    file: File,
    length: u64,
}

impl Image {
    fn bytes(&self, offset: u64, size: u64, what: &'static str) -> Result<Vec<u8>, Error> {
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.length);
        if !inside || size > TABLE_LIMIT {
            return Err(Error::Damaged(what));
        }
        let mut bytes = vec![0; size as usize];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn sections(&self) -> Result<Vec<Section>, Error> {
        let header = self.bytes(0, 64, "header").map_err(|error| match error {
            Error::Damaged(_) => Error::NotElf,
            other => other,
        })?;
        let (class_64, little_endian) = (2, 1);
        if header[..4] != *b"\x7fELF" || header[4] != class_64 || header[5] != little_endian {
            return Err(Error::NotElf);
        }
        let offset = u64_at(&header, 0x28);
        let entry = u16_at(&header, 0x3A);
        let count = u16_at(&header, 0x3C);
        if usize::from(entry) != SECTION_HEADER || count == 0 {
            return Err(Error::Damaged("section table"));
        }
        let table = self.bytes(offset, u64::from(entry) * u64::from(count), "section table")?;
        let section = |bytes: &[u8]| Section {
            kind: u32_at(bytes, 0x04),
            offset: u64_at(bytes, 0x18),
            size: u64_at(bytes, 0x20),
            link: u32_at(bytes, 0x28),
        };
        Ok(table.chunks_exact(SECTION_HEADER).map(section).collect())
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Directory;
    use std::process::Command;

    /// A shared library with one function of its own and one that it wants from libc.
    fn library(directory: &Directory) -> std::path::PathBuf {
        let (source, library) = (directory.path().join("l.c"), directory.path().join("l.so"));
        let text = "extern int scandir(); static int inner(void) { return scandir(); }\n\
                    int offered(void) { return inner(); }";
        std::fs::write(&source, text).unwrap();
        crate::testing::compile(&source, &library);
        library
    }

    #[test]
    fn imports_and_exports_are_told_apart() {
        let directory = Directory::new("elf");
        let symbols = dynamic_symbols(&library(&directory)).unwrap();
        assert!(symbols.imported.contains(&"scandir".to_owned()), "{symbols:?}");
        assert_eq!(symbols.exported, ["offered"]);
    }

    #[test]
    fn other_files_are_named_for_what_they_are() {
        let directory = Directory::new("elf");
        let path = directory.path().join("file");
        let refusal = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            dynamic_symbols(&path).unwrap_err().to_string()
        };
        assert_eq!(refusal(b""), "is not a 64-bit little-endian ELF file");
        assert_eq!(
            refusal(b"#!/bin/sh\nexec postgres \"$@\"\n# and a comment to be long enough\n"),
            "is not a 64-bit little-endian ELF file"
        );
        let source = directory.path().join("s.c");
        std::fs::write(&source, "void _start(void) { for (;;); }").unwrap();
        let status = Command::new("cc").args(["-static", "-nostdlib", "-o"]).arg(&path).arg(&source).status();
        assert!(status.unwrap().success());
        let error = dynamic_symbols(&path).unwrap_err();
        assert_eq!(error.to_string(), "has no dynamic symbols: it is linked statically");
        let missing = dynamic_symbols(&directory.path().join("none")).unwrap_err();
        assert!(missing.to_string().starts_with("cannot be read: "), "{missing}");
    }

    /// Whatever bytes a file has, reading it ends with an answer or an error.
    #[test]
    fn damage_never_panics() {
        let directory = Directory::new("elf");
        let good = std::fs::read(library(&directory)).unwrap();
        let path = directory.path().join("damaged");
        let try_bytes = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            dynamic_symbols(&path).is_ok()
        };
        assert!(try_bytes(&good));
        for length in (0..good.len()).step_by(97) {
            assert!(!try_bytes(&good[..length]), "the section table is at the end: {length}");
        }
        let table = u64_at(&good, 0x28) as usize;
        for at in (0..64).chain(table..good.len()) {
            for value in [0x00, 0x7F, 0xFF] {
                let mut bytes = good.clone();
                bytes[at] = value;
                try_bytes(&bytes);
            }
        }
    }
}
