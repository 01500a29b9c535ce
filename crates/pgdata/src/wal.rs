//! Pages and records of the write-ahead log, as far as finding its end needs.
//!
//! Layout: `XLogPageHeaderData` and `XLogRecord` in PostgreSQL's `xlog_internal.h` and
//! `xlogrecord.h`, unchanged from 15 to 18 but for the magic numbers. Little-endian hosts only, as
//! the rest of the project.

use crate::Lsn;
use crate::crc::crc32c;

/// Size of a WAL page, bytes; we refuse servers built with another.
pub const PAGE: u64 = 8192;
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;
const RECORD_HEADER: usize = 24;
/// `XLP_FIRST_IS_CONTRECORD`: the page begins inside a record.
const CONTINUES: u16 = 1;
/// `XLP_LONG_HEADER`.
const LONG: u16 = 2;
/// No record is longer (`XLogRecordMaxSize`).
const MAX_RECORD: usize = 1020 << 20;

/// One page and where it belongs.
pub type Page = [u8; PAGE as usize];

/// Reads the page at an LSN that is a multiple of [`PAGE`]; `None` when there is none.
pub type ReadPage<'a> = &'a mut dyn FnMut(Lsn) -> Option<Box<Page>>;

struct Header {
    info: u16,
    remaining: u32,
    length: u64,
}

fn header(page: &Page, at: Lsn) -> Option<Header> {
    let u16_at = |i: usize| u16::from_le_bytes([page[i], page[i + 1]]);
    let (magic, info) = (u16_at(0), u16_at(2));
    // XLOG_PAGE_MAGIC rises by a little each major: 0xD110 in 15, 0xD118 in 18.
    if !(0xD100..=0xD1FF).contains(&magic) || u64_at(page, 8)? != at.0 {
        return None;
    }
    let length = if info & LONG != 0 { LONG_HEADER } else { SHORT_HEADER };
    Some(Header { info, remaining: u32_at(page, 16)?, length })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

fn aligned(position: u64) -> u64 {
    position.next_multiple_of(8)
}

/// A whole, checked record.
struct Record {
    previous: u64,
    /// Aligned position after the record: where the next may begin.
    next: u64,
}

/// Walks pages and caches the last.
struct Reader<'a, 'b> {
    read: &'a mut ReadPage<'b>,
    page: Option<(u64, Box<Page>)>,
}

impl Reader<'_, '_> {
    fn page(&mut self, at: u64) -> Option<&Page> {
        if self.page.as_ref().is_none_or(|(position, _)| *position != at) {
            self.page = Some((at, (self.read)(Lsn(at))?));
        }
        self.page.as_ref().map(|(_, page)| &**page)
    }

    /// Where the first record that begins on the page at `at` begins; `None` when none does.
    fn first_record(&mut self, at: u64) -> Option<u64> {
        let header = header(self.page(at)?, Lsn(at))?;
        let begins = if header.info & CONTINUES != 0 {
            aligned(at + header.length + u64::from(header.remaining))
        } else {
            at + header.length
        };
        (begins < at + PAGE).then_some(begins)
    }

    /// The record at `start`, if it is whole and its checksum right.
    fn record(&mut self, start: u64) -> Option<Record> {
        let page_start = start - start % PAGE;
        let length = u32_at(self.page(page_start)?, (start % PAGE) as usize)? as usize;
        if !(RECORD_HEADER..=MAX_RECORD).contains(&length) {
            return None;
        }
        let mut body = Vec::with_capacity(length.min(1 << 20));
        let mut position = start;
        while body.len() < length {
            let page_start = position - position % PAGE;
            let page = self.page(page_start)?;
            if position == page_start {
                let header = header(page, Lsn(page_start))?;
                if header.info & CONTINUES == 0 || header.remaining as usize != length - body.len() {
                    return None;
                }
                position += header.length;
            }
            let page = self.page(page_start)?;
            let from = (position - page_start) as usize;
            let take = (PAGE as usize - from).min(length - body.len());
            body.extend_from_slice(&page[from..from + take]);
            position += take as u64;
        }
        let stored = u32_at(&body, 20)?;
        // The checksum runs over the data first, then over the header before it.
        (crc32c(crc32c(0, &body[RECORD_HEADER..]), &body[..20]) == stored).then_some(())?;
        Some(Record { previous: u64_at(&body, 8)?, next: aligned(position) })
    }

    /// End of the last good record in the chain that begins with the record at `start`.
    fn follow(&mut self, start: u64) -> Option<u64> {
        let (mut at, mut previous, mut end) = (start, None, None);
        loop {
            if at.is_multiple_of(PAGE) {
                let Some(first) = self.page(at).and_then(|page| header(page, Lsn(at))) else { return end };
                at += first.length;
            }
            match self.record(at) {
                Some(record) if previous.is_none_or(|previous| previous == record.previous) => {
                    previous = Some(at);
                    end = Some(record.next);
                    at = record.next;
                }
                _ => return end,
            }
        }
    }
}

/// End of the last whole record before `limit` (a byte position that nothing was written beyond).
/// Looks at the last pages only. `None` when no whole record is found at or after `floor`.
pub fn last_end(read: &mut ReadPage<'_>, floor: Lsn, limit: Lsn) -> Option<Lsn> {
    let mut reader = Reader { read, page: None };
    let mut at = limit.0.saturating_sub(1) / PAGE * PAGE;
    while at + PAGE > floor.0 {
        if let Some(end) = reader.first_record(at).and_then(|start| reader.follow(start)) {
            return Some(Lsn(end));
        }
        at = at.checked_sub(PAGE)?;
    }
    None
}

/// End of the last whole record in the chain that begins with the record at `start`; reads
/// everything in between. `None` when there is no whole record at `start`.
pub fn end_from(read: &mut ReadPage<'_>, start: Lsn) -> Option<Lsn> {
    Reader { read, page: None }.follow(start.0).map(Lsn)
}

/// Name of a WAL segment file.
pub fn segment_name(timeline: u32, segment: u64, segment_size: u64) -> String {
    let per_id = 0x1_0000_0000 / segment_size;
    format!("{timeline:08X}{:08X}{:08X}", segment / per_id, segment % per_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Writes records into pages as PostgreSQL does.
    struct Writer {
        pages: BTreeMap<u64, Box<Page>>,
        at: u64,
        previous: u64,
    }

    impl Writer {
        fn new(start: u64) -> Writer {
            Writer { pages: BTreeMap::new(), at: start, previous: 0 }
        }

        fn put(&mut self, bytes: &[u8], total: usize) {
            for (done, byte) in bytes.iter().enumerate() {
                let start = self.at / PAGE * PAGE;
                if self.at == start {
                    let mut page = Box::new([0u8; PAGE as usize]);
                    page[..2].copy_from_slice(&0xD116u16.to_le_bytes());
                    let inside = done > 0;
                    page[2..4].copy_from_slice(&u16::from(inside).to_le_bytes());
                    page[8..16].copy_from_slice(&start.to_le_bytes());
                    let rest = if inside { (total - done) as u32 } else { 0 };
                    page[16..20].copy_from_slice(&rest.to_le_bytes());
                    self.pages.insert(start, page);
                    self.at += SHORT_HEADER;
                }
                self.pages.get_mut(&start).unwrap()[(self.at - start) as usize] = *byte;
                self.at += 1;
            }
        }

        fn record(&mut self, length: usize) -> u64 {
            let mut body: Vec<u8> = (0..RECORD_HEADER + length).map(|i| i as u8).collect();
            let total = body.len();
            body[..4].copy_from_slice(&(total as u32).to_le_bytes());
            body[8..16].copy_from_slice(&self.previous.to_le_bytes());
            let crc = crc32c(crc32c(0, &body[RECORD_HEADER..]), &body[..20]);
            body[20..24].copy_from_slice(&crc.to_le_bytes());
            let start = if self.at.is_multiple_of(PAGE) { self.at + SHORT_HEADER } else { self.at };
            self.put(&body, total);
            self.previous = start;
            self.at = aligned(self.at);
            start
        }
    }

    #[test]
    fn finds_the_end_at_record_and_page_borders() {
        for length in (0..9000).step_by(61).chain([8128, 8136, 8144, 16000, 40000]) {
            let mut writer = Writer::new(1 << 24);
            let first = writer.record(100);
            writer.record(length);
            let end = writer.at;
            let whole_pages = writer.pages.clone();
            let mut read = |lsn: Lsn| whole_pages.get(&lsn.0).cloned();
            let mut read: ReadPage<'_> = &mut read;
            let limit = Lsn(end.next_multiple_of(PAGE));
            assert_eq!(last_end(&mut read, Lsn(1 << 24), limit), Some(Lsn(end)), "length {length}");
            assert_eq!(end_from(&mut read, Lsn(first)), Some(Lsn(end)), "length {length}");
        }
    }

    #[test]
    fn a_record_cut_short_does_not_count() {
        let mut writer = Writer::new(1 << 24);
        writer.record(100);
        let good = writer.at;
        writer.record(30_000);
        let mut pages = writer.pages.clone();
        let last = *pages.keys().last().unwrap();
        pages.remove(&last);
        let mut read = |lsn: Lsn| pages.get(&lsn.0).cloned();
        let mut read: ReadPage<'_> = &mut read;
        assert_eq!(last_end(&mut read, Lsn(1 << 24), Lsn(last)), Some(Lsn(good)));
    }

    #[test]
    fn names_segments() {
        assert_eq!(segment_name(1, 1, 16 << 20), "000000010000000000000001");
        assert_eq!(segment_name(2, 256 + 255, 16 << 20), "0000000200000001000000FF");
    }
}
