//! Pages of relations: PostgreSQL's page checksum, and where a page belongs.
//!
//! The algorithm is that of `src/include/storage/checksum_impl.h`: 32 interleaved FNV-1a sums with an
//! extra shift, mixed with the block's number in its relation, so that a page in a wrong place shows.

/// Size of a page in bytes.
pub const PAGE: usize = 8192;
/// Pages in one segment file of a relation (1 GiB).
pub const PAGES_PER_SEGMENT: u32 = 131_072;

const LANES: usize = 32;
const PRIME: u32 = 16_777_619;
/// Where the lanes begin: the values of PostgreSQL's `checksumBaseOffsets`.
const OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// Where the checksum stands in a page (`pd_checksum`), and the offset that says whether the page was
/// ever used (`pd_upper`).
const CHECKSUM_AT: usize = 8;
const UPPER_AT: usize = 14;

/// Why a page is not one that PostgreSQL would accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The content does not match the checksum.
    #[error("page checksum is {stored:04X}, the content gives {computed:04X}")]
    Checksum {
        /// Checksum in the page.
        stored: u16,
        /// Checksum of the content at this place.
        computed: u16,
    },
    /// The header says that the page was never used, yet there are bytes in it.
    #[error("page has no valid header and is not empty")]
    NotEmpty,
}

/// The checksum of a page that is block `block` of its relation.
pub fn checksum(page: &[u8; PAGE], block: u32) -> u16 {
    let mut sums = OFFSETS;
    for (row, bytes) in page.chunks_exact(LANES * 4).enumerate() {
        for (lane, word) in bytes.chunks_exact(4).enumerate() {
            let mut value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            if row == 0 && lane == CHECKSUM_AT / 4 {
                // The checksum itself counts as zero; it is the lower half of its word.
                value &= 0xFFFF_0000;
            }
            sums[lane] = mix(sums[lane], value);
        }
    }
    // Two rounds of zeros carry the last words into the high bits.
    let folded = sums.into_iter().fold(0, |folded, sum| folded ^ mix(mix(sum, 0), 0));
    // Never 0, which means "no checksum" to some readers.
    ((folded ^ block) % 65_535 + 1) as u16
}

#[inline]
fn mix(sum: u32, value: u32) -> u32 {
    let mixed = sum ^ value;
    mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
}

/// Judges a page of a cluster with checksums as the server does when it reads it: one that was never
/// used must be all zeros, any other must match its checksum. `block` counts from the relation's begin.
///
/// # Errors
/// What is wrong.
pub fn verify(page: &[u8; PAGE], block: u32) -> Result<(), Fault> {
    if page[UPPER_AT] == 0 && page[UPPER_AT + 1] == 0 {
        return if page.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(Fault::NotEmpty) };
    }
    let stored = u16::from_le_bytes([page[CHECKSUM_AT], page[CHECKSUM_AT + 1]]);
    let computed = checksum(page, block);
    if stored == computed { Ok(()) } else { Err(Fault::Checksum { stored, computed }) }
}

/// The segment number of a file of a relation, from its path in the data directory: 0 for
/// `base/5/16384` or `base/5/16384_fsm`, 3 for `base/5/16384.3`; `None` for anything that is no file of
/// pages.
pub fn segment(path: &[u8]) -> Option<u32> {
    let parts: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    let name = match parts[..] {
        [b"global", name] | [b"base", _, name] | [b"pg_tblspc", _, _, _, name] => name,
        _ => return None,
    };
    let (name, segment) = match name.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&name[..dot], number(&name[dot + 1..])?),
        None => (name, 0),
    };
    let name = match name.strip_prefix(b"t") {
        // Of a temporary table: the number of its session comes first.
        Some(rest) => {
            let end = rest.iter().position(|&byte| byte == b'_')?;
            number(&rest[..end])?;
            &rest[end + 1..]
        }
        None => name,
    };
    let relation = match name.iter().position(|&byte| byte == b'_') {
        Some(at) if [&b"_fsm"[..], b"_vm", b"_init"].contains(&&name[at..]) => &name[..at],
        Some(_) => return None,
        None => name,
    };
    number(relation).map(|_| segment)
}

fn number(digits: &[u8]) -> Option<u32> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| all)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by PostgreSQL 17.10 in `base/1`: block 5 of a table, block 1 of an index, block 2 of a
    /// free space map, block 0 of a visibility map.
    const PAGES: &[u8] = include_bytes!("../fixtures/pages.17");
    const BLOCKS: [u32; 4] = [5, 1, 2, 0];

    fn pages() -> impl Iterator<Item = ([u8; PAGE], u32)> {
        PAGES.chunks(PAGE).map(|page| page.try_into().unwrap()).zip(BLOCKS)
    }

    #[test]
    fn agrees_with_pages_of_a_real_server() {
        assert_eq!(pages().count(), 4);
        for (page, block) in pages() {
            assert_eq!(verify(&page, block), Ok(()), "block {block}");
        }
        assert_eq!(verify(&[0; PAGE], 7), Ok(()));
    }

    #[test]
    fn a_page_in_a_wrong_place_is_found() {
        for (page, block) in pages() {
            assert!(matches!(verify(&page, block + 1), Err(Fault::Checksum { .. })), "block {block}");
        }
    }

    /// 16 bits cannot tell everything: of 65,535 changes one is missed.
    #[test]
    fn changed_bits_are_found() {
        let mut missed = 0;
        for (page, block) in pages() {
            for at in 0..PAGE {
                let mut damaged = page;
                damaged[at] ^= 1 << (at % 8);
                missed += u32::from(verify(&damaged, block).is_ok());
            }
        }
        assert!(missed <= 2, "{missed} of 32,768");
        let mut unused = [0; PAGE];
        unused[PAGE - 1] = 1;
        assert_eq!(verify(&unused, 0), Err(Fault::NotEmpty));
    }

    #[test]
    fn files_of_pages_and_their_segments() {
        for (path, expected) in [
            ("base/5/16384", Some(0)),
            ("base/5/16384.3", Some(3)),
            ("base/5/16384_fsm", Some(0)),
            ("base/5/16384_vm.1", Some(1)),
            ("base/5/16384_init", Some(0)),
            ("base/5/t3_16384", Some(0)),
            ("base/5/t3_16384_fsm.2", Some(2)),
            ("global/1262", Some(0)),
            ("pg_tblspc/16400/PG_17_202406281/5/16401", Some(0)),
            ("base/5/PG_VERSION", None),
            ("base/5/pg_filenode.map", None),
            ("base/5/16384_other", None),
            ("base/5/16384.x", None),
            ("base/5/16384.", None),
            ("base/5", None),
            ("base/5/_fsm", None),
            ("global/pg_control", None),
            ("pg_xact/0000", None),
            ("16384", None),
        ] {
            assert_eq!(segment(path.as_bytes()), expected, "{path}");
        }
    }
}
