//! `Encoder` in Python: texts in, numpy arrays out, the interpreter lock released in between.

use pyo3::exceptions::{PyTypeError, PyUnicodeEncodeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyString};

use super::errors::signals;
use super::knobs::{knob, pattern_of};
use super::texts::{Utf8, blocks_of};
use crate::encode::{Encoder, Parts};
use crate::texts::Location;

const ITEMS_PER_LOOK: usize = 1 << 14; // for Ctrl-C, while they are collected
const HANDED: Location<'_> = Location { kind: "text", first: 0 };

#[pyclass(name = "Encoder", module = "nanobpe", frozen)]
pub struct PyEncoder {
    encoder: Encoder,
    pattern: String,
    vocab_size: usize,
}

#[pymethods]
impl PyEncoder {
    #[new]
    #[pyo3(signature = (tokens, pattern = None))]
    fn new(py: Python<'_>, tokens: &Bound<'_, PyAny>, pattern: Option<&Bound<'_, PyString>>) -> PyResult<Self> {
        let pattern = pattern_of(pattern)?;
        let tokens = collected(tokens, |token| Ok(token.cast_into::<PyBytes>()?.as_bytes().to_vec()))?;
        let vocab_size = tokens.len();
        let encoder = py.detach(|| Encoder::new(pattern, tokens))?;
        Ok(Self { encoder, pattern: pattern.to_owned(), vocab_size })
    }

    #[getter]
    fn pattern(&self) -> &str {
        &self.pattern
    }

    fn __len__(&self) -> usize {
        self.vocab_size
    }

    fn __repr__(&self) -> String {
        format!("<nanobpe.Encoder of {} tokens>", self.vocab_size)
    }

    fn encode<'py>(&self, text: Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        let (py, text) = (text.py(), encodable(&text)?);
        let texts = [text.as_str(HANDED)?];
        let ids = |parts: &Parts<'_>| Python::attach(|py| ids_of(py, parts).map(Bound::unbind));
        Ok(py.detach(|| self.encoder.encode_with(&texts, Some(1), signals(), ids))??.into_bound(py))
    }

    #[pyo3(signature = (texts, threads = None))]
    fn encode_batch<'py>(
        &self,
        texts: &Bound<'py, PyAny>,
        threads: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        if texts.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err("texts must be an iterable of str, not one str: put it in a list"));
        }
        let (py, threads, blocks) = (texts.py(), knob("threads", threads)?, blocks_of(texts)?);
        let strings = match &blocks {
            None => collected(texts, |text| encodable(&text.cast_into::<PyString>()?))?,
            Some(_) => Vec::new(),
        };
        let mut texts = strings.iter().map(|text| text.as_str(HANDED)).collect::<PyResult<Vec<&str>>>()?;
        texts.extend(blocks.iter().flatten().flat_map(|block| block.get().0.iter()));
        let arrays = |parts: &Parts<'_>| -> PyResult<_> {
            Python::attach(|py| Ok((ids_of(py, parts)?.unbind(), offsets_of(py, parts, texts.len())?.unbind())))
        };
        let (ids, offsets) = py.detach(|| self.encoder.encode_with(&texts, threads, signals(), arrays))??;
        Ok((ids.into_bound(py), offsets.into_bound(py)))
    }
}

/// What `make` makes of all items, with looks for Ctrl-C in between.
fn collected<'py, T>(items: &Bound<'py, PyAny>, make: impl Fn(Bound<'py, PyAny>) -> PyResult<T>) -> PyResult<Vec<T>> {
    let mut made = Vec::new();
    for item in items.try_iter()? {
        made.push(make(item?)?);
        if made.len().is_multiple_of(ITEMS_PER_LOOK) {
            items.py().check_signals()?;
        }
    }
    Ok(made)
}

/// The text, with U+FFFD for surrogates that are not a pair, which have no UTF-8: what tiktoken does.
fn encodable<'py>(text: &Bound<'py, PyString>) -> PyResult<Utf8<'py>> {
    match Utf8::of(text) {
        Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(text.py()) => {
            let units = text.call_method1("encode", ("utf-16", "surrogatepass"))?;
            Utf8::of(units.call_method1("decode", ("utf-16", "replace"))?.cast::<PyString>()?)
        }
        made => made,
    }
}

fn ids_of<'py>(py: Python<'py>, parts: &Parts<'_>) -> PyResult<Bound<'py, PyAny>> {
    array(py, "uint32", 4 * parts.len(), |bytes| {
        let mut at = 0;
        parts.for_each(|ids, _| {
            let slots = bytes[at..].chunks_exact_mut(4);
            ids.iter().zip(slots).for_each(|(id, slot)| slot.copy_from_slice(&id.to_ne_bytes()));
            at += 4 * ids.len();
        });
    })
}

/// Where the ids of each text start, and where the last ones end.
fn offsets_of<'py>(py: Python<'py>, parts: &Parts<'_>, texts: usize) -> PyResult<Bound<'py, PyAny>> {
    array(py, "int64", 8 * (texts + 1), |bytes| {
        let (mut offsets, mut before) = (bytes.chunks_exact_mut(8).skip(1), 0);
        parts.for_each(|ids, ends| {
            for (end, bytes) in ends.zip(offsets.by_ref()) {
                bytes.copy_from_slice(&((before + end) as i64).to_ne_bytes());
            }
            before += ids.len();
        });
    })
}

/// A numpy array over `length` bytes that `fill` writes.
fn array<'py>(
    py: Python<'py>,
    dtype: &str,
    length: usize,
    fill: impl FnOnce(&mut [u8]),
) -> PyResult<Bound<'py, PyAny>> {
    static FROM_BUFFER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let bytes = PyByteArray::new_with(py, length, |bytes| {
        fill(bytes);
        Ok(())
    })?;
    FROM_BUFFER.import(py, "numpy", "frombuffer")?.call1((bytes, dtype))
}
