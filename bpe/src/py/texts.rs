//! Takes texts from whatever Python hands over and gives them to a counter batch by batch: `str`, UTF-8 `bytes`, Arrow
//! arrays of strings through their buffers, and blocks of many texts.
//!
//! Promises that a text is let go once its batch is counted, that the interpreter lock is released while a batch is
//! counted, and that Ctrl-C is seen within a second. Does not cover reading files.

use std::time::{Duration, Instant};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyMemoryView, PySlice, PyString};

use super::errors::signals;
use crate::Counter;
use crate::cuts::{PART_BYTES, last_cut, parts};
use crate::texts::{Location, Texts};

const LEAST_BATCH_BYTES: usize = 64 << 10;
const FIRST_BATCH_BYTES: usize = 1 << 20;
const MOST_BATCH_BYTES: usize = 16 << 20;
const MOST_BATCH_ITEMS: usize = 1 << 16;
const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_millis(400);

#[pyclass(name = "Texts", module = "nanobpe", frozen)]
pub struct PyTexts(pub Texts);

#[pymethods]
impl PyTexts {
    #[getter]
    fn num_bytes(&self) -> usize {
        self.0.num_bytes()
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __repr__(&self) -> String {
        format!("<nanobpe.Texts: {} in {} bytes>", self.0.len(), self.0.num_bytes())
    }

    fn to_list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let texts: Vec<&str> = self.0.iter().collect();
        PyList::new(py, texts)
    }
}

/// A text with its UTF-8. Of one that is not ASCII these are bytes of our own, for Python would keep its own as long as
/// the `str`.
pub enum Utf8<'py> {
    Ascii(Bound<'py, PyString>),
    Bytes(Bound<'py, PyBytes>),
}

impl<'py> Utf8<'py> {
    /// UnicodeEncodeError for surrogates that are no pair.
    pub fn of(text: &Bound<'py, PyString>) -> PyResult<Self> {
        match text.call_method0(intern!(text.py(), "isascii"))?.is_truthy()? {
            true => Ok(Self::Ascii(text.clone())),
            false => text.encode_utf8().map(Self::Bytes),
        }
    }

    pub fn num_bytes(&self) -> PyResult<usize> {
        match self {
            Self::Ascii(text) => Ok(text.to_str()?.len()),
            Self::Bytes(bytes) => Ok(bytes.as_bytes().len()),
        }
    }

    /// The text; an error that names `place` if bytes that were handed over are not UTF-8.
    pub fn as_str(&self, place: Location<'_>) -> PyResult<&str> {
        match self {
            Self::Ascii(text) => text.to_str(),
            Self::Bytes(bytes) => Ok(place.text(0, bytes.as_bytes())?),
        }
    }
}

/// What keeps texts alive until they are counted.
enum Source<'py> {
    One(Utf8<'py>, u64), // and its number
    Many(Bound<'py, PyTexts>),
}

/// Texts on their way into a counter.
pub struct Feed<'py> {
    pub counter: Counter,
    pub progress: Option<Bound<'py, PyAny>>,
    waiting: Vec<Source<'py>>,
    waiting_texts: u64,
    waiting_bytes: usize,
    num_texts: u64, // taken so far
    num_bytes: u64, // counted so far
    batch_bytes: usize,
}

impl<'py> Feed<'py> {
    pub fn new(counter: Counter, progress: Option<Bound<'py, PyAny>>) -> Self {
        let (waiting, waiting_texts, waiting_bytes, batch_bytes) = (Vec::new(), 0, 0, FIRST_BATCH_BYTES);
        Self { counter, progress, waiting, waiting_texts, waiting_bytes, num_texts: 0, num_bytes: 0, batch_bytes }
    }

    /// Counts all of `texts`: an iterable, or one block of many.
    pub fn take_all(&mut self, texts: &Bound<'py, PyAny>) -> PyResult<()> {
        if texts.is_instance_of::<PyString>() || texts.is_instance_of::<PyBytes>() {
            let kind = texts.get_type().name()?;
            return Err(PyTypeError::new_err(format!("texts must be an iterable, not one {kind}: put it in a list")));
        }
        if texts.is_instance_of::<PyTexts>() || is_arrow(texts)? {
            self.take(texts)?;
        } else {
            for item in texts.try_iter()? {
                self.take(&item?)?;
            }
        }
        self.flush(texts.py())
    }

    fn take(&mut self, item: &Bound<'py, PyAny>) -> PyResult<()> {
        let py = item.py();
        let place = Location { kind: "text", first: self.num_texts };
        let one = match (item.cast::<PyString>(), item.cast::<PyBytes>()) {
            (Ok(text), _) => Some(Utf8::of(text).map_err(|error| place.error(0, error.value(py)))?),
            (_, Ok(bytes)) => Some(Utf8::Bytes(bytes.clone())),
            _ => None,
        };
        if let Some(text) = one {
            let bytes = text.num_bytes()?;
            return self.push(py, Source::One(text, self.num_texts), 1, bytes);
        }
        if let Ok(texts) = item.cast::<PyTexts>() {
            let (number, bytes) = (texts.get().0.len() as u64, texts.get().0.num_bytes());
            return self.push(py, Source::Many(texts.clone()), number, bytes);
        }
        if !is_arrow(item)? {
            let (number, kind) = (self.num_texts, item.get_type().name()?);
            let message = format!("text {number} is of type {kind}: give str, UTF-8 bytes, or Arrow arrays of strings");
            return Err(PyTypeError::new_err(message));
        }
        arrow_blocks(item, self.num_texts, &mut |texts, rows| {
            let bytes = texts.num_bytes();
            self.push(py, Source::Many(Bound::new(py, PyTexts(texts))?), rows, bytes)
        })
    }

    fn push(&mut self, py: Python<'py>, source: Source<'py>, texts: u64, bytes: usize) -> PyResult<()> {
        self.waiting.push(source);
        self.num_texts += texts;
        self.waiting_texts += texts;
        self.waiting_bytes += bytes;
        if self.waiting_bytes >= self.batch_bytes || self.waiting_texts >= MOST_BATCH_ITEMS as u64 {
            return self.flush(py);
        }
        Ok(())
    }

    /// Counts all that waits.
    fn flush(&mut self, py: Python<'py>) -> PyResult<()> {
        let waiting = std::mem::take(&mut self.waiting);
        (self.waiting_texts, self.waiting_bytes) = (0, 0);
        py.check_signals()?;
        let mut texts = Vec::with_capacity(waiting.len());
        for source in &waiting {
            match source {
                Source::One(text, number) => texts.push(text.as_str(Location { kind: "text", first: *number })?),
                Source::Many(many) => texts.extend(many.get().0.iter()),
            }
        }
        if self.counter.cuttable() {
            texts = texts.into_iter().flat_map(|text| parts(text, PART_BYTES)).collect();
        }
        let mut rest = &texts[..];
        while let Some(first) = rest.first() {
            let (mut number, mut bytes) = (1, first.len());
            while number < rest.len() && bytes + rest[number].len() <= self.batch_bytes {
                bytes += rest[number].len();
                number += 1;
            }
            let batch;
            (batch, rest) = rest.split_at(number);
            self.count(py, batch, bytes)?;
        }
        Ok(())
    }

    fn count(&mut self, py: Python<'py>, batch: &[&str], bytes: usize) -> PyResult<()> {
        let started = Instant::now();
        py.detach(|| self.counter.add(batch, signals()))?;
        match started.elapsed() {
            took if took < SHORT => self.batch_bytes = (self.batch_bytes * 2).min(MOST_BATCH_BYTES),
            took if took > LONG => self.batch_bytes = (self.batch_bytes / 2).max(LEAST_BATCH_BYTES),
            _ => {}
        }
        py.check_signals()?;
        self.num_bytes += bytes as u64;
        if let Some(progress) = &self.progress {
            progress.call1((intern!(py, "count"), self.num_bytes))?;
        }
        Ok(())
    }
}

fn is_arrow(item: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = item.py();
    Ok(item.hasattr(intern!(py, "type"))?
        && (item.hasattr(intern!(py, "buffers"))? || item.hasattr(intern!(py, "chunks"))?))
}

/// Texts that come as one block or in an Arrow array, the latter in blocks; none for any other iterable of texts.
pub fn blocks_of<'py>(texts: &Bound<'py, PyAny>) -> PyResult<Option<Vec<Bound<'py, PyTexts>>>> {
    if let Ok(block) = texts.cast::<PyTexts>() {
        return Ok(Some(vec![block.clone()]));
    }
    if !is_arrow(texts)? {
        return Ok(None);
    }
    let mut blocks = Vec::new();
    arrow_blocks(texts, 0, &mut |block, _| {
        blocks.push(Bound::new(texts.py(), PyTexts(block))?);
        Ok(())
    })?;
    Ok(Some(blocks))
}

/// Calls `each` with the texts of an Arrow array, chunked or not, in blocks of bounded size, and the number of rows of
/// each block; errors number the rows from `first`.
fn arrow_blocks(
    array: &Bound<'_, PyAny>,
    mut first: u64,
    each: &mut dyn FnMut(Texts, u64) -> PyResult<()>,
) -> PyResult<()> {
    let py = array.py();
    let chunks = match array.hasattr(intern!(py, "chunks"))? {
        true => array.getattr(intern!(py, "chunks"))?.try_iter()?.collect::<PyResult<Vec<_>>>()?,
        false => vec![array.clone()],
    };
    for chunk in chunks {
        let (array, mut rows) = (ArrowStrings::new(&chunk)?, 0);
        while rows < array.len() {
            let end = array.end_of_batch(rows);
            let place = Location { kind: "text", first: first + rows as u64 };
            each(array.texts(py, rows, end, place)?, (end - rows) as u64)?;
            py.check_signals()?;
            rows = end;
        }
        first += array.len() as u64;
    }
    Ok(())
}

/// An Arrow array of strings, known by its buffers: which rows are there (a bit each), where each starts, the bytes.
struct ArrowStrings<'py> {
    validity: Option<Vec<u8>>,
    first_bit: usize,
    bounds: Vec<usize>,
    data: Option<Bound<'py, PyAny>>,
}

impl<'py> ArrowStrings<'py> {
    fn new(array: &Bound<'py, PyAny>) -> PyResult<Self> {
        let kind = array.getattr("type")?.str()?;
        let width = match kind.to_str()? {
            "string" | "binary" => 4,
            "large_string" | "large_binary" => 8,
            kind => {
                let message = format!("an Arrow array of {kind} is none of strings: cast it to pyarrow.large_string()");
                return Err(PyTypeError::new_err(message));
            }
        };
        let (offset, length): (usize, usize) = (array.getattr("offset")?.extract()?, array.len()?);
        let buffers: Vec<Option<Bound<'py, PyAny>>> = array.call_method0("buffers")?.extract()?;
        let [validity, offsets, data] = <[_; 3]>::try_from(buffers).map_err(|_| bad_buffers())?;
        let last = offset.checked_add(length).and_then(|last| last.checked_add(1)).ok_or_else(bad_buffers)?;
        let last_byte = last.checked_mul(width).ok_or_else(bad_buffers)?;
        let (first_bit, first_byte) = (offset % 8, offset / 8);
        let validity = match validity {
            Some(bits) => Some(copy(Some(&bits), first_byte, first_byte + (first_bit + length).div_ceil(8))?),
            None => None,
        };
        let offsets = match length {
            0 => vec![0; width],
            _ => copy(offsets.as_ref(), offset * width, last_byte)?,
        };
        let bound = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
            Ok(bytes) => usize::try_from(i32::from_ne_bytes(bytes)),
            Err(_) => usize::try_from(i64::from_ne_bytes(bytes.try_into().expect("4 or 8 bytes"))),
        };
        let bounds: Result<Vec<usize>, _> = offsets.chunks_exact(width).map(bound).collect();
        Ok(Self { validity, first_bit, bounds: bounds.map_err(|_| bad_buffers())?, data })
    }

    fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Where a batch ends that starts at row `start`: one row, or as many as are not too long together.
    fn end_of_batch(&self, start: usize) -> usize {
        let most = self.bounds[start].saturating_add(MOST_BATCH_BYTES);
        let later = self.bounds[start + 2..].iter().take(MOST_BATCH_ITEMS);
        start + 1 + later.take_while(|&&bound| bound <= most).count()
    }

    /// The texts from row `start` to row `end`, by one copy of their bytes.
    fn texts(&self, py: Python<'py>, start: usize, end: usize, place: Location<'_>) -> PyResult<Texts> {
        let bounds = &self.bounds[start..=end];
        let first = bounds[0];
        let data = copy(self.data.as_ref(), first, bounds[end - start].max(first))?;
        let bounds: Vec<usize> = bounds.iter().map(|&bound| bound.wrapping_sub(first)).collect();
        let first_bit = self.first_bit + start;
        let is_null = self
            .validity
            .as_deref()
            .map(|bits| move |row: usize| bits[(first_bit + row) / 8] >> ((first_bit + row) % 8) & 1 == 0);
        let is_null = is_null.filter(|is_null| (0..end - start).any(is_null));
        Ok(py.detach(|| Texts::from_arrow(data, &bounds, is_null, place))?)
    }
}

fn bad_buffers() -> PyErr {
    PyTypeError::new_err("the buffers of an Arrow array are not those of its type")
}

/// The bytes of an Arrow buffer from `start` to `end`.
fn copy(buffer: Option<&Bound<'_, PyAny>>, start: usize, end: usize) -> PyResult<Vec<u8>> {
    if start == end {
        return Ok(Vec::new());
    }
    let buffer = buffer.ok_or_else(bad_buffers)?;
    let (py, view) = (buffer.py(), PyMemoryView::from(buffer)?);
    let slice = PySlice::new(py, isize::try_from(start)?, isize::try_from(end)?, 1);
    let part = view.call_method1("cast", ("B",))?.get_item(slice)?;
    let bytes = PyBuffer::<u8>::get(&part)?.to_vec(py)?;
    if bytes.len() == end - start { Ok(bytes) } else { Err(bad_buffers()) }
}

/// Many texts from an Arrow array; an error names the row of `path`, of which this array starts with row `first_row`.
#[pyfunction]
pub fn arrow_texts<'py>(py: Python<'py>, array: &Bound<'py, PyAny>, path: &str, first_row: u64) -> PyResult<PyTexts> {
    let array = ArrowStrings::new(array)?;
    let place = Location { kind: &format!("{path}, row"), first: first_row };
    array.texts(py, 0, array.len(), place).map(PyTexts)
}

/// Many texts from lines of JSON, and how many lines those were.
#[pyfunction]
pub fn json_texts(
    py: Python<'_>,
    lines: &[u8],
    column: &str,
    path: &str,
    first_line: u64,
) -> PyResult<(PyTexts, usize)> {
    let place = Location { kind: &format!("{path}, line"), first: first_line };
    let (texts, number) = py.detach(|| Texts::from_json_lines(lines, column, place))?;
    Ok((PyTexts(texts), number))
}

/// Many texts from a part of a text file that starts at byte `start`.
#[pyfunction]
pub fn plain_texts(py: Python<'_>, block: &[u8], path: &str, start: u64) -> PyResult<PyTexts> {
    Ok(PyTexts(py.detach(|| Texts::from_plain_text(block.to_vec(), path, start))?))
}

/// Where a part of a text file may best be cut; 0 if nowhere.
#[pyfunction(name = "last_cut")]
pub fn last_cut_of(block: &[u8]) -> usize {
    last_cut(block)
}
