//! CRC-32C (Castagnoli), the checksum of PostgreSQL's WAL records and control file.

const POLYNOMIAL_REVERSED: u32 = 0x82F6_3B78;

static TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = (value >> 1) ^ if value & 1 == 1 { POLYNOMIAL_REVERSED } else { 0 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
}

/// CRC-32C of `bytes`. `seed` is 0, or the result for the bytes that come before these:
/// `crc32c(crc32c(0, a), b)` is the checksum of `a` followed by `b`.
pub fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!seed, |crc, &byte| (crc >> 8) ^ TABLE[((crc ^ u32::from(byte)) & 0xFF) as usize])
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    /// Test vectors of RFC 3720, appendix B.4, and the usual check value.
    #[test]
    fn agrees_with_the_published_vectors() {
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(0, b""), 0);
        assert_eq!(crc32c(0, b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(0, &[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(0, &[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(crc32c(0, &ascending), 0x46DD_794E);
    }

    #[test]
    fn continues_at_any_split() {
        let bytes = b"123456789";
        for split in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(split);
            assert_eq!(crc32c(crc32c(0, head), tail), 0xE306_9283);
        }
    }
}
