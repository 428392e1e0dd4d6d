//! The flight table, read line by line.
//!
//! A file of any size is read in constant memory. A row is a line: line ends are LF, CRLF and a
//! lone CR, also mixed; the last line may lack one. A byte-order mark is skipped, bytes that are no
//! UTF-8 become U+FFFD, U+0000 stays what it is, and none of them ends the run. A quoted field may
//! contain commas but no line end, so a stray quote costs one row and not the rest of the file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;

use crate::row::{self, COLUMNS};

/// The most bytes of a line that are read. A longer one is malformed, its rest is skipped.
pub const MAX_LINE_BYTES: usize = 1 << 20;

const BUNDLED: &[u8] = include_bytes!("../data/flights-2013-01.csv.gz");
const BUNDLED_NAME: &str = "the bundled flights of January 2013";
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The lines of a table after its header, which has been checked. Ends after the first error.
pub struct Input {
    name: String,
    lines: Lines<Box<dyn BufRead + Send>>,
    rows: u64,
    position: Position,
    is_done: bool,
}

impl Input {
    /// The month that comes with the program, independent of any directory.
    ///
    /// # Errors
    /// None in practice: the data is part of the program.
    pub fn bundled() -> Result<Self, Error> {
        let bytes = u64::try_from(BUNDLED.len()).ok();
        Self::new(BUNDLED_NAME.to_owned(), BUNDLED, bytes)
    }

    /// A `.csv` or `.csv.gz` file; which of them its first bytes tell, not its name.
    ///
    /// # Errors
    /// [`Error::Open`] and [`Error::Header`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let open = |source| Error::Open {
            name: name.clone(),
            source,
        };
        let file = File::open(path).map_err(open)?;
        let metadata = file.metadata().map_err(open)?;
        // A pipe has no size.
        let bytes = metadata.is_file().then_some(metadata.len());
        Self::new(name, file, bytes)
    }

    /// A table from anywhere; `bytes` is its size as far as it is known.
    ///
    /// # Errors
    /// [`Error::Header`] if it does not begin with the columns of the flight table,
    /// [`Error::Read`] if it cannot be read.
    pub fn new(
        name: String,
        source: impl Read + Send + 'static,
        bytes: Option<u64>,
    ) -> Result<Self, Error> {
        let position = Position {
            read: Arc::default(),
            rows: Arc::default(),
            total: bytes,
        };
        let counted = Counted {
            inner: source,
            read: Arc::clone(&position.read),
        };
        let reading = |source| Error::Read {
            name: name.clone(),
            rows: 0,
            source,
        };
        let lines = Lines::new(decompressed(counted).map_err(reading)?);
        let mut input = Self {
            name,
            lines,
            rows: 0,
            position,
            is_done: false,
        };
        input.check_header()?;
        Ok(input)
    }

    /// What is read, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How far the reading is, to be looked at from anywhere.
    pub fn position(&self) -> Position {
        self.position.clone()
    }

    fn check_header(&mut self) -> Result<(), Error> {
        let first = self.lines.next().map_err(|source| self.broken(source))?;
        let Some(first) = first else {
            return Err(self.wrong_header("the file is empty".to_owned()));
        };
        let found = row::header(&first.text);
        if found == COLUMNS {
            return Ok(());
        }
        let difference = match found.iter().zip(COLUMNS).position(|(a, b)| a != b) {
            Some(at) => format!(
                "column {} is {:?} instead of {:?}",
                at + 1,
                found[at].chars().take(40).collect::<String>(),
                COLUMNS[at]
            ),
            None => format!("it has {} columns", found.len()),
        };
        Err(self.wrong_header(difference))
    }

    fn wrong_header(&self, difference: String) -> Error {
        Error::Header {
            name: self.name.clone(),
            difference,
        }
    }

    fn broken(&self, source: io::Error) -> Error {
        Error::Read {
            name: self.name.clone(),
            rows: self.rows,
            source,
        }
    }
}

impl Iterator for Input {
    type Item = Result<Line, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        match self.lines.next() {
            Ok(Some(line)) => {
                self.rows += 1;
                self.position.rows.store(self.rows, Ordering::Relaxed);
                Some(Ok(line))
            }
            Ok(None) => {
                self.is_done = true;
                None
            }
            Err(source) => {
                self.is_done = true;
                Some(Err(self.broken(source)))
            }
        }
    }
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input")
            .field("name", &self.name)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// Why there are no rows, or no more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file, or we may not read it.
    #[error("cannot open {name}")]
    Open {
        /// The file.
        name: String,
        /// What the system says.
        source: io::Error,
    },
    /// It is not the flight table.
    #[error(
        "{name} is not the flight table: {difference}; its first line must be {}",
        COLUMNS.join(",")
    )]
    Header {
        /// The file.
        name: String,
        /// The first difference.
        difference: String,
    },
    /// The rest cannot be read: a disk error, or gzip data that is cut off or damaged.
    #[error("cannot read {name} any further after {rows} rows")]
    Read {
        /// The file.
        name: String,
        /// How many rows were read before.
        rows: u64,
        /// What the system or the decompressor says.
        source: io::Error,
    },
}

/// How much of a file has been read, in its own, perhaps compressed bytes.
#[derive(Debug, Clone)]
pub struct Position {
    read: Arc<AtomicU64>,
    rows: Arc<AtomicU64>,
    total: Option<u64>,
}

impl Position {
    /// Bytes read so far.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes that the first `rows` rows take, as far as that can be told: reading is ahead of what
    /// is done with the rows.
    pub fn read_for(&self, rows: u64) -> u64 {
        let read_rows = self.rows.load(Ordering::Relaxed).max(1);
        let bytes = u128::from(self.read()) * u128::from(rows.min(read_rows));
        u64::try_from(bytes / u128::from(read_rows)).expect("not above the bytes read")
    }

    /// Bytes there are, unless it is a pipe.
    pub fn total(&self) -> Option<u64> {
        self.total
    }
}

/// A line without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// From 1.
    pub number: u64,
    /// What stands in it, U+FFFD for what is no UTF-8.
    pub text: Box<str>,
    /// Whether it is longer than [`MAX_LINE_BYTES`] and this is only its beginning.
    pub is_truncated: bool,
}

/// Splits bytes into lines.
struct Lines<R> {
    reader: R,
    buffer: Vec<u8>,
    number: u64,
    /// The last line ended with CR: an LF that follows belongs to the same line end.
    after_cr: bool,
}

impl<R: BufRead> Lines<R> {
    fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: Vec::new(),
            number: 0,
            after_cr: false,
        }
    }

    /// The next line, `None` after the last one.
    fn next(&mut self) -> io::Result<Option<Line>> {
        self.buffer.clear();
        let mut is_begun = false;
        let mut is_truncated = false;
        loop {
            let available = match self.reader.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                if !is_begun {
                    return Ok(None);
                }
                break;
            }
            if self.after_cr {
                self.after_cr = false;
                if available[0] == b'\n' {
                    self.reader.consume(1);
                    continue;
                }
            }
            is_begun = true;
            let end = memchr::memchr2(b'\n', b'\r', available);
            let part = &available[..end.unwrap_or(available.len())];
            let room = MAX_LINE_BYTES - self.buffer.len();
            is_truncated |= part.len() > room;
            self.buffer.extend_from_slice(&part[..part.len().min(room)]);
            let Some(end) = end else {
                let all = available.len();
                self.reader.consume(all);
                continue;
            };
            self.after_cr = available[end] == b'\r';
            self.reader.consume(end + 1);
            break;
        }
        self.number += 1;
        Ok(Some(self.line(is_truncated)))
    }

    fn line(&mut self, is_truncated: bool) -> Line {
        if is_truncated
            && let Err(error) = std::str::from_utf8(&self.buffer)
            && error.error_len().is_none()
        {
            // The cut went through a character.
            self.buffer.truncate(error.valid_up_to());
        }
        let mut bytes = self.buffer.as_slice();
        if self.number == 1 {
            bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        }
        Line {
            number: self.number,
            text: String::from_utf8_lossy(bytes).into(),
            is_truncated,
        }
    }
}

/// The bytes themselves, or what they are the gzip compression of, one member or several.
fn decompressed(mut source: impl Read + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    const BUFFER_BYTES: usize = 1 << 16;
    let mut start = Vec::with_capacity(GZIP_MAGIC.len());
    source
        .by_ref()
        .take(u64::try_from(GZIP_MAGIC.len()).expect("two bytes"))
        .read_to_end(&mut start)?;
    let is_gzip = start == GZIP_MAGIC;
    let whole = io::Cursor::new(start).chain(source);
    if is_gzip {
        let unpacked = MultiGzDecoder::new(BufReader::with_capacity(BUFFER_BYTES, whole));
        Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, unpacked)))
    } else {
        Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, whole)))
    }
}

/// Counts what is read through it.
struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let bytes = u64::try_from(count).expect("a buffer is smaller than 2^64 bytes");
        self.read.fetch_add(bytes, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use crate::row::{Flight, Malformed};

    use super::*;

    const ROW: &str =
        "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z";

    fn header() -> String {
        COLUMNS.join(",")
    }

    fn open(bytes: impl Into<Vec<u8>>) -> Result<Input, Error> {
        Input::new("test".into(), io::Cursor::new(bytes.into()), None)
    }

    fn rows(bytes: impl Into<Vec<u8>>) -> Vec<Line> {
        open(bytes)
            .expect("a flight table")
            .collect::<Result<_, _>>()
            .expect("readable to its end")
    }

    fn flight(line: &Line) -> Result<Flight, Malformed> {
        Flight::of_line(line)
    }

    fn lines(bytes: &[u8], buffer_bytes: usize) -> Vec<(u64, String)> {
        let mut lines = Lines::new(BufReader::with_capacity(buffer_bytes, bytes));
        let mut found = Vec::new();
        while let Some(line) = lines.next().expect("memory does not fail") {
            found.push((line.number, line.text.into()));
        }
        found
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).expect("memory does not fail");
        encoder.finish().expect("memory does not fail")
    }

    #[test]
    fn lines_end_in_any_way_and_keep_their_numbers() {
        let cases: [(&[u8], &[&str]); 12] = [
            (b"", &[]),
            (b"a", &["a"]),
            (b"a\n", &["a"]),
            (b"a\r\n", &["a"]),
            (b"a\r", &["a"]),
            (b"a\nb\r\nc\rd", &["a", "b", "c", "d"]),
            (b"a\n\n", &["a", ""]),
            (b"a\r\r", &["a", ""]),
            (b"a\r\n\r\nb\r\n", &["a", "", "b"]),
            (b"\n", &[""]),
            (b"a\n\rb", &["a", "", "b"]),
            (b"a\r\r\nb", &["a", "", "b"]),
        ];
        for (bytes, expected) in cases {
            // A line end may lie across two reads.
            for buffer_bytes in [1, 2, 3, 64] {
                let expected: Vec<_> = (1..).zip(expected.iter().map(|t| (*t).into())).collect();
                assert_eq!(lines(bytes, buffer_bytes), expected, "{bytes:?}");
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_do_not_end_the_run() {
        assert_eq!(
            lines(b"\xef\xbb\xbfa\xffb\n\xef\xbb\xbfc\0\n", 64),
            [(1, "a\u{FFFD}b".into()), (2, "\u{FEFF}c\0".into())]
        );
        let mut bytes = b"\xef\xbb\xbf".to_vec();
        bytes.extend(format!("{}\r\n{ROW}\r\n\0\n", header()).bytes());
        bytes.extend(ROW.replace("IAH", "I?H").bytes().map(|byte| match byte {
            b'?' => 0xff,
            byte => byte,
        }));
        let rows = rows(bytes);
        assert_eq!(rows.len(), 3);
        assert_eq!(flight(&rows[1]), Err(Malformed::Columns(1)));
        assert_eq!((rows[1].number, &*rows[1].text), (3, "\0"));
        let last = flight(&rows[2]).expect("a good row");
        assert_eq!(last.dest, "I\u{FFFD}H");
    }

    #[test]
    fn a_blank_line_is_a_malformed_row_but_a_final_line_end_is_none() {
        let rows = rows(format!("{}\n{ROW}\n\n{ROW}\n", header()));
        let found: Vec<_> = rows
            .iter()
            .map(|row| (row.number, flight(row).is_ok()))
            .collect();
        assert_eq!(found, [(2, true), (3, false), (4, true)]);
        assert_eq!(rows[2].text.as_ref(), ROW);
    }

    #[test]
    fn an_endless_line_costs_one_row_and_bounded_memory() {
        let fits = "x".repeat(MAX_LINE_BYTES);
        let text = format!("{}\n{fits}\n{fits}ä\n{ROW}", header());
        let rows = rows(text);
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0].text.len(), MAX_LINE_BYTES);
        assert_eq!(rows[1].text.len(), MAX_LINE_BYTES);
        assert_eq!(flight(&rows[1]), Err(Malformed::TooLong));
        assert!(flight(&rows[2]).is_ok());

        // Cut within a character, and a row that would be good but for its length.
        let long = format!("{}{}ä", &fits[1..], "");
        let mut lines = Lines::new(long.as_bytes());
        let line = lines.next().expect("memory").expect("a line");
        assert!(line.is_truncated);
        assert_eq!(line.text.len(), MAX_LINE_BYTES - 1);
        let good = ROW.replace("IAH", &fits);
        let mut input = open(format!("{}\n{good}", header())).expect("a flight table");
        let row = input.next().expect("a row").expect("readable");
        assert_eq!(flight(&row), Err(Malformed::TooLong));
    }

    #[test]
    fn gzip_is_told_by_its_first_bytes_and_may_have_members() {
        let text = format!("{}\n{ROW}\n{ROW}\n", header());
        let (first, second) = text.as_bytes().split_at(200);
        let mut members = gzip(first);
        members.extend(gzip(second));
        assert_eq!(rows(gzip(text.as_bytes())).len(), 2);
        assert_eq!(rows(members).len(), 2);
    }

    #[test]
    fn a_cut_gzip_file_names_itself_and_the_rows_before() {
        let mut text = header();
        let mut digits = 1_u64;
        for _ in 0..5000 {
            digits = digits
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            text += &format!("\n{}", ROW.replace("1545", &(digits >> 33).to_string()));
        }
        let mut bytes = gzip(text.as_bytes());
        bytes.truncate(bytes.len() / 2);
        let results: Vec<_> = open(bytes).expect("the header is whole").collect();
        let good = results.iter().filter(|result| result.is_ok()).count();
        assert!(good > 100, "{good}");
        assert_eq!(results.len(), good + 1, "nothing follows the error");
        let error = results.last().expect("an error").as_ref().expect_err("cut");
        assert_eq!(
            error.to_string(),
            format!("cannot read test any further after {good} rows")
        );
        assert!(std::error::Error::source(error).is_some());
    }

    #[test]
    fn a_wrong_header_is_named() {
        let cases = [
            (String::new(), "the file is empty"),
            (ROW.to_owned(), "column 1 is \"2013\" instead of \"year\""),
            ("year,month".to_owned(), "it has 2 columns"),
            (format!("{},x", header()), "it has 20 columns"),
            (
                header().replace("tailnum", "tail"),
                "column 12 is \"tail\" instead of \"tailnum\"",
            ),
        ];
        for (text, difference) in cases {
            let error = open(text).expect_err("no flight table").to_string();
            assert!(error.contains(difference), "{error}");
            assert!(error.ends_with(&header()), "{error}");
        }
        let quoted = format!("\"{}\"", COLUMNS.join("\",\""));
        assert!(open(quoted).is_ok());
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Input::open(Path::new("/nowhere/flights.csv")).expect_err("no such file");
        assert_eq!(error.to_string(), "cannot open /nowhere/flights.csv");
        let error = Input::open(Path::new("/")).expect_err("a directory");
        assert!(error.to_string().contains("cannot read /"), "{error}");
    }

    #[test]
    fn the_position_ends_at_the_size_of_the_file() {
        let mut input = Input::bundled().expect("part of the program");
        let position = input.position();
        assert_eq!(position.total(), Some(657_135));
        assert_eq!(input.by_ref().count(), 27_004);
        assert_eq!(position.read(), 657_135);
        assert_eq!(position.read_for(27_004 / 2), 657_135 / 2);
        assert_eq!(position.read_for(u64::MAX), 657_135);
    }
}
