//! What is in the next page of a column, and may it be held?
//!
//! A page says how large it is, and a hostile one lies: sizes are checked before room is made for them, what is packed never
//! unpacks to more than its page says, and all pages that are open at a time share one allowance.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use ruzstd::decoding::StreamingDecoder;

use super::thrift::{Met, walk};

/// Bytes of a page, packed or not. Writers make pages of about 1 MiB, and some of them pages of up to 100 MB.
const PAGE_BYTES_MAX: usize = 128 << 20;

/// Bytes of all pages that are open at a time: a page and a dictionary of each wanted column.
const OPEN_BYTES_MAX: usize = 4 << 30;

/// Bytes that one more page's head may have. Most have fewer than a hundred; some have a least and a largest value in them.
const HEAD_BYTES: [usize; 3] = [1 << 10, 1 << 16, 1 << 22];

/// Bytes that each value of a dictionary takes in memory, at most.
const ENTRY_BYTES: usize = 40;

/// The pages of one column in one row group.
pub(super) struct Pages {
    pub(super) file: Arc<File>,
    pub(super) at: u64,
    pub(super) end: u64,
    pub(super) packing: Compression,
    /// What a value is, and of how many bytes where all have as many.
    pub(super) kind: (Type, i32),
    /// Whether values may be missing.
    pub(super) has_levels: bool,
    pub(super) has_dictionary: bool,
    pub(super) share: Share,
}

/// What a column takes of the allowance for open pages.
pub(super) struct Share {
    all: Arc<AtomicUsize>,
    dictionary: usize,
    page: usize,
}

/// The numbers in a page's head, by field and the field within it.
struct Head(BTreeMap<(i16, i16), i64>);

impl Pages {
    fn next_page(&mut self) -> std::result::Result<Option<Page>, String> {
        while self.at < self.end {
            let head = self.read_head()?;
            let (packed_size, size) = (head.size((3, 0))?, head.size((2, 0))?);
            if packed_size as u64 > self.end - self.at {
                return Err("a page is larger than the rest of its column".to_owned());
            }
            let start = self.at;
            self.at += packed_size as u64;
            let page = match head.number((1, 0))? {
                0 => self.data_page(&head, self.read(start, packed_size)?, size)?,
                1 => continue,
                2 => self.dictionary_page(&head, self.read(start, packed_size)?, size)?,
                3 => self.second_data_page(&head, self.read(start, packed_size)?, size)?,
                kind => return Err(format!("a page is of kind {kind}, which is not known")),
            };
            // Whoever reads on takes a page without values for the last.
            if page.is_dictionary_page() || page.num_values() > 0 {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }

    fn read_head(&mut self) -> std::result::Result<Head, String> {
        let mut error = String::new();
        for most in HEAD_BYTES {
            let count = most.min(usize::try_from(self.end - self.at).unwrap_or(most));
            let bytes = self.read(self.at, count)?;
            let mut numbers = BTreeMap::new();
            let read = walk(&bytes, &mut |path, met| {
                match (path, met) {
                    (&[field], Met::Number(number)) => drop(numbers.insert((field, 0), number)),
                    (&[field, within], Met::Number(number)) => drop(numbers.insert((field, within), number)),
                    _ => {}
                }
                Ok(())
            });
            match read {
                Ok(length) => {
                    self.at += length as u64;
                    return Ok(Head(numbers));
                }
                Err(why) => error = why,
            }
            if count < most {
                break;
            }
        }
        Err(format!("a page's head cannot be read: {error}"))
    }

    fn read(&self, at: u64, count: usize) -> std::result::Result<Vec<u8>, String> {
        let mut bytes = vec![0; count];
        self.file.read_exact_at(&mut bytes, at).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    fn data_page(&mut self, head: &Head, packed: Vec<u8>, size: usize) -> std::result::Result<Page, String> {
        self.share.take(None, size)?;
        let def_level_encoding = head.encoding((5, 3))?;
        if self.has_levels && def_level_encoding != Encoding::RLE {
            return Err(format!("which values are missing is written as {def_level_encoding}, expected RLE"));
        }
        Ok(Page::DataPage {
            buf: self.unpack(packed, size)?,
            num_values: head.count((5, 1))?,
            encoding: self.values_encoding(head.encoding((5, 2))?)?,
            def_level_encoding,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        })
    }

    /// The newer form: what says which values are missing is never packed.
    fn second_data_page(&mut self, head: &Head, packed: Vec<u8>, size: usize) -> std::result::Result<Page, String> {
        self.share.take(None, size)?;
        let (def_levels_byte_len, rep_levels_byte_len) = (head.count((8, 5))?, head.count((8, 6))?);
        let levels = def_levels_byte_len as usize + rep_levels_byte_len as usize;
        if levels > size || levels > packed.len() {
            return Err("which values are missing takes more than its page".to_owned());
        }
        let buf = match head.0.get(&(8, 7)) {
            Some(0) => whole(packed, size)?,
            _ => {
                let mut bytes = packed[..levels].to_vec();
                // A page of missing values alone has nothing behind.
                if size > levels {
                    bytes.extend_from_slice(&self.unpack(packed[levels..].to_vec(), size - levels)?);
                }
                bytes.into()
            }
        };
        Ok(Page::DataPageV2 {
            buf,
            num_values: head.count((8, 1))?,
            encoding: self.values_encoding(head.encoding((8, 4))?)?,
            num_nulls: head.count((8, 2))?,
            num_rows: head.count((8, 3))?,
            def_levels_byte_len,
            rep_levels_byte_len,
            is_compressed: false,
            statistics: None,
        })
    }

    fn dictionary_page(&mut self, head: &Head, packed: Vec<u8>, size: usize) -> std::result::Result<Page, String> {
        let (num_values, encoding) = (head.count((7, 1))?, head.encoding((7, 2))?);
        let least = match self.kind {
            (Type::BYTE_ARRAY | Type::INT32 | Type::FLOAT, _) => 4,
            (Type::INT64 | Type::DOUBLE, _) => 8,
            (Type::INT96, _) => 12,
            (Type::FIXED_LEN_BYTE_ARRAY, width) => width.max(1) as usize,
            (Type::BOOLEAN, _) => return Err("a column of truth values has a dictionary".to_owned()),
        };
        if num_values as usize > size / least {
            return Err(format!("a dictionary of {size} bytes cannot hold {num_values} values"));
        }
        if self.has_dictionary {
            return Err("a column has two dictionaries".to_owned());
        }
        self.share.take(Some(size + num_values as usize * ENTRY_BYTES), 0)?;
        self.has_dictionary = true;
        Ok(Page::DictionaryPage { buf: self.unpack(packed, size)?, num_values, encoding, is_sorted: false })
    }

    /// How values are written, where that is read here: the other ways have sizes in their midst that nobody checks.
    fn values_encoding(&self, encoding: Encoding) -> std::result::Result<Encoding, String> {
        match encoding {
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY if !self.has_dictionary => {
                Err("values are numbers of a dictionary, and there is none".to_owned())
            }
            Encoding::RLE_DICTIONARY
            | Encoding::PLAIN_DICTIONARY
            | Encoding::PLAIN
            | Encoding::RLE
            | Encoding::DELTA_BINARY_PACKED
            | Encoding::BYTE_STREAM_SPLIT => Ok(encoding),
            other => Err(format!(
                "values are written as {other}, which is not read here: write the file without it (in version 1.0, or with \
                 dictionaries)"
            )),
        }
    }

    fn unpack(&self, packed: Vec<u8>, size: usize) -> std::result::Result<Bytes, String> {
        unpack(self.packing, packed, size).map_err(|error| format!("a page cannot be unpacked: {error}"))
    }
}

/// Unpacks a page of `size` bytes, and never more than that.
fn unpack(packing: Compression, packed: Vec<u8>, size: usize) -> std::result::Result<Bytes, String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let mut bytes = Vec::new();
    match packing {
        // Some write nothing for nothing.
        _ if packed.is_empty() => {}
        Compression::UNCOMPRESSED => bytes = packed,
        Compression::SNAPPY => {
            bytes = vec![0; size];
            let count = snap::raw::Decoder::new().decompress(&packed, &mut bytes).map_err(|error| failed(&error))?;
            bytes.truncate(count);
        }
        Compression::GZIP(_) => {
            read(MultiGzDecoder::new(packed.as_slice()), size, &mut bytes).map_err(|error| failed(&error))?;
        }
        Compression::ZSTD(_) => {
            let unpacking = StreamingDecoder::new(packed.as_slice()).map_err(|error| failed(&error))?;
            read(unpacking, size, &mut bytes).map_err(|error| failed(&error))?;
        }
        Compression::LZ4_RAW => bytes = unpack_lz4(&packed, size)?,
        Compression::LZ4 => bytes = unpack_frames(&packed, size).or_else(|_| unpack_lz4(&packed, size))?,
        other => return Err(format!("{other} is not read here")),
    }
    whole(bytes, size)
}

/// Reads at most one byte more than expected, so that it is seen.
fn read(unpacking: impl Read, size: usize, bytes: &mut Vec<u8>) -> io::Result<usize> {
    unpacking.take(size as u64 + 1).read_to_end(bytes)
}

fn unpack_lz4(packed: &[u8], size: usize) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = vec![0; size];
    let count = lz4_flex::block::decompress_into(packed, &mut bytes).map_err(|error| error.to_string())?;
    bytes.truncate(count);
    Ok(bytes)
}

/// The older form of LZ4, as Hadoop has it: before each piece its size and its packed size.
fn unpack_frames(mut packed: &[u8], size: usize) -> std::result::Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some((sizes, rest)) = packed.split_first_chunk::<8>() {
        let part = |from: usize| u32::from_be_bytes([sizes[from], sizes[from + 1], sizes[from + 2], sizes[from + 3]]);
        let (piece_size, packed_size) = (part(0) as usize, part(4) as usize);
        let (piece, more) = rest.split_at_checked(packed_size).ok_or("a piece is cut off")?;
        if piece_size > size - bytes.len() {
            return Err("its pieces are larger than the page".to_owned());
        }
        bytes.extend_from_slice(&unpack_lz4(piece, piece_size)?);
        packed = more;
    }
    if packed.is_empty() { Ok(bytes) } else { Err("a piece is cut off".to_owned()) }
}

fn whole(bytes: Vec<u8>, size: usize) -> std::result::Result<Bytes, String> {
    match bytes.len() == size {
        true => Ok(bytes.into()),
        false => Err(format!("it has not the {size} bytes that its head says")),
    }
}

impl Head {
    fn number(&self, field: (i16, i16)) -> std::result::Result<i64, String> {
        self.0.get(&field).copied().ok_or_else(|| "a page's head lacks what it must say".to_owned())
    }

    fn count(&self, field: (i16, i16)) -> std::result::Result<u32, String> {
        let number = self.number(field)?;
        // As the format has it: whole numbers of 31 bits.
        i32::try_from(number)
            .ok()
            .and_then(|number| u32::try_from(number).ok())
            .ok_or_else(|| format!("a page's head counts {number}"))
    }

    fn size(&self, field: (i16, i16)) -> std::result::Result<usize, String> {
        let size = self.count(field)? as usize;
        match size <= PAGE_BYTES_MAX {
            true => Ok(size),
            false => Err(format!(
                "a page has {size} bytes, and at most {PAGE_BYTES_MAX} are held: write the file with smaller pages"
            )),
        }
    }

    fn encoding(&self, field: (i16, i16)) -> std::result::Result<Encoding, String> {
        Ok(match self.number(field)? {
            0 => Encoding::PLAIN,
            2 => Encoding::PLAIN_DICTIONARY,
            3 => Encoding::RLE,
            #[allow(deprecated)]
            4 => Encoding::BIT_PACKED,
            5 => Encoding::DELTA_BINARY_PACKED,
            6 => Encoding::DELTA_LENGTH_BYTE_ARRAY,
            7 => Encoding::DELTA_BYTE_ARRAY,
            8 => Encoding::RLE_DICTIONARY,
            9 => Encoding::BYTE_STREAM_SPLIT,
            other => return Err(format!("values are written in the way {other}, which is not known")),
        })
    }
}

impl Share {
    /// Nothing yet, of what `all` columns take together.
    pub(super) fn new(all: &Arc<AtomicUsize>) -> Share {
        Share { all: Arc::clone(all), dictionary: 0, page: 0 }
    }

    /// Takes so much for the next page in place of the one before it, and for a dictionary where that is what has come.
    fn take(&mut self, dictionary: Option<usize>, page: usize) -> std::result::Result<(), String> {
        let before = self.dictionary + self.page;
        (self.dictionary, self.page) = (dictionary.unwrap_or(self.dictionary), page);
        let now = self.dictionary + self.page;
        let all = self.all.fetch_add(now, Ordering::Relaxed) + now - before;
        self.all.fetch_sub(before, Ordering::Relaxed);
        match all <= OPEN_BYTES_MAX {
            true => Ok(()),
            false => Err(format!(
                "the pages of all columns take more than {OPEN_BYTES_MAX} bytes at a time: write the file with smaller pages"
            )),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.all.fetch_sub(self.dictionary + self.page, Ordering::Relaxed);
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.next_page().map_err(ParquetError::General)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        Err(ParquetError::NYI("pages are read one after the other".to_owned()))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        Err(ParquetError::NYI("pages are read one after the other".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use ruzstd::encoding::CompressionLevel;

    use super::*;

    fn gzipped(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// All ways of packing, each with what it makes of some bytes.
    fn packed(bytes: &[u8]) -> Vec<(Compression, Vec<u8>)> {
        let block = lz4_flex::block::compress(bytes);
        let sizes = [bytes.len() as u32, block.len() as u32].map(u32::to_be_bytes).concat();
        vec![
            (Compression::UNCOMPRESSED, bytes.to_vec()),
            (Compression::SNAPPY, snap::raw::Encoder::new().compress_vec(bytes).unwrap()),
            (Compression::GZIP(Default::default()), gzipped(bytes)),
            (
                Compression::ZSTD(Default::default()),
                ruzstd::encoding::compress_to_vec(bytes, CompressionLevel::Fastest),
            ),
            (Compression::LZ4_RAW, block.clone()),
            (Compression::LZ4, block.clone()),
            (Compression::LZ4, [sizes, block].concat()),
        ]
    }

    #[test]
    fn pages_are_unpacked_to_their_size_and_no_further() {
        let bytes: Vec<u8> = (0..100_000u32).flat_map(|number| (number / 3).to_le_bytes()).collect();
        for (packing, packed) in packed(&bytes) {
            assert_eq!(unpack(packing, packed.clone(), bytes.len()).unwrap(), bytes, "{packing}");
            for size in [bytes.len() - 1, bytes.len() + 1, 0] {
                assert!(unpack(packing, packed.clone(), size).is_err(), "{packing} {size}");
            }
            assert!(unpack(packing, packed[..packed.len() - 1].to_vec(), bytes.len()).is_err(), "{packing}");
        }
        // A few kilobytes that are a gigabyte are heard of after a thousand.
        let bomb = gzipped(&vec![0; 1 << 22]).repeat(256);
        assert!(unpack(Compression::GZIP(Default::default()), bomb, 1_000).unwrap_err().contains("the 1000 bytes"));
    }

    #[test]
    fn all_columns_share_what_may_be_held() {
        let all = Arc::default();
        let (mut one, mut other) = (Share::new(&all), Share::new(&all));
        one.take(Some(1_000), 0).unwrap();
        one.take(None, OPEN_BYTES_MAX / 2).unwrap();
        one.take(None, OPEN_BYTES_MAX / 4).unwrap();
        assert!(other.take(None, OPEN_BYTES_MAX / 4 * 3).unwrap_err().contains("smaller pages"));
        drop(one);
        assert_eq!(other.take(None, OPEN_BYTES_MAX), Ok(()));
        drop(other);
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
