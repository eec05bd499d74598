//! The one file that knows Python: takes texts from any iterable, releases the interpreter lock while it works, looks
//! for Ctrl-C between batches and merges, and turns each error into one typed exception. Does not cover anything else.

use std::path::PathBuf;

use pyo3::create_exception;
use pyo3::exceptions::{PyTypeError, PyUnicodeEncodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyByteArray, PyBytes, PyList, PyString};

use crate::counts::Counts;
use crate::encode::{Encoder, Parts};
use crate::error::Error;
use crate::learn::Vocabulary;
use crate::{Counter, GPT4_PATTERN};

const BATCH_BYTES: usize = 16 << 20;
const BATCH_TEXTS: usize = 1 << 16;

create_exception!(nanobpe, NanobpeError, PyValueError, "What this package refuses.");
create_exception!(nanobpe, VocabularySizeError, NanobpeError, "vocab_size is below 256, the number of single bytes.");
create_exception!(nanobpe, PatternError, NanobpeError, "The pattern is no regular expression, or gave up on a text.");
create_exception!(nanobpe, EmptyCorpusError, NanobpeError, "There is no text.");
create_exception!(nanobpe, CorpusTooSmallError, NanobpeError, "The text has fewer merges than vocab_size needs.");
create_exception!(nanobpe, TokensError, NanobpeError, "Tokens that cannot encode every text, or not in one way.");
create_exception!(nanobpe, CountsError, NanobpeError, "Word counts that cannot be read or added.");

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::VocabSize(_) => VocabularySizeError::new_err(message),
            Error::Threads(_) | Error::MaxWords(_) => NanobpeError::new_err(message),
            Error::Pattern { .. } => PatternError::new_err(message),
            Error::EmptyCorpus => EmptyCorpusError::new_err(message),
            Error::CorpusTooSmall { .. } => CorpusTooSmallError::new_err(message),
            Error::PatternsDiffer(..) | Error::Malformed(_) | Error::TooLarge(_) => CountsError::new_err(message),
            Error::Tokens(_) => TokensError::new_err(message),
            Error::Io(error) => error.into(),
        }
    }
}

#[pyclass(name = "Counts", module = "nanobpe", frozen)]
struct PyCounts(Counts);

#[pymethods]
impl PyCounts {
    #[getter]
    fn pattern(&self) -> &str {
        self.0.pattern()
    }

    #[getter]
    fn total_bytes(&self) -> u64 {
        self.0.total_bytes()
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn __add__(&self, py: Python<'_>, other: &Self) -> PyResult<Self> {
        Ok(Self(py.detach(|| self.0.plus(&other.0))?))
    }

    fn __repr__(&self) -> String {
        format!("<nanobpe.Counts of {} distinct words in {} bytes>", self.0.len(), self.0.total_bytes())
    }

    fn items<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let words = py.detach(|| self.0.sorted());
        PyList::new(py, words.into_iter().map(|(word, count)| (PyBytes::new(py, word), count)))
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        Ok(py.detach(|| self.0.save(&path))?)
    }

    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        Ok(Self(py.detach(|| Counts::load(&path))?))
    }
}

#[pyclass(name = "Vocabulary", module = "nanobpe", frozen)]
struct PyVocabulary(Vocabulary);

#[pymethods]
impl PyVocabulary {
    #[getter]
    fn pattern(&self) -> &str {
        &self.0.pattern
    }

    #[getter]
    fn tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.0.tokens.iter().map(|token| PyBytes::new(py, token)))
    }

    fn __len__(&self) -> usize {
        self.0.tokens.len()
    }

    fn __repr__(&self) -> String {
        format!("<nanobpe.Vocabulary of {} tokens>", self.0.tokens.len())
    }
}

/// Hands the texts to `counter` batch by batch, with the lock released while a batch is counted.
fn feed(counter: &mut Counter, texts: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = texts.py();
    if texts.is_instance_of::<PyString>() {
        return Err(PyTypeError::new_err("texts must be an iterable of str, not one str: put it in a list"));
    }
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for text in texts.try_iter()? {
        let text = text?.cast_into::<PyString>()?;
        bytes += text.to_str()?.len();
        batch.push(text);
        if bytes >= BATCH_BYTES || batch.len() >= BATCH_TEXTS {
            flush(py, counter, &mut batch)?;
            bytes = 0;
        }
    }
    flush(py, counter, &mut batch)
}

fn flush(py: Python<'_>, counter: &mut Counter, batch: &mut Vec<Bound<'_, PyString>>) -> PyResult<()> {
    let texts = batch.iter().map(|text| text.to_str()).collect::<PyResult<Vec<&str>>>()?;
    py.detach(|| counter.add(&texts))?;
    batch.clear();
    py.check_signals()
}

#[pyfunction]
#[pyo3(signature = (texts, *, pattern = GPT4_PATTERN, threads = None))]
fn count(texts: &Bound<'_, PyAny>, pattern: &str, threads: Option<i64>) -> PyResult<PyCounts> {
    let mut counter = Counter::new(pattern, threads, None)?;
    feed(&mut counter, texts)?;
    Ok(PyCounts(texts.py().detach(|| counter.finish())?))
}

#[pyfunction]
#[pyo3(signature = (counts, *, vocab_size))]
fn learn(py: Python<'_>, counts: &PyCounts, vocab_size: i64) -> PyResult<PyVocabulary> {
    let check = || Python::attach(|py| py.check_signals());
    Ok(PyVocabulary(py.detach(|| crate::learn(&counts.0, vocab_size, check))?))
}

#[pymodule]
fn _nanobpe(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("GPT4_PATTERN", GPT4_PATTERN)?;
    module.add("NanobpeError", py.get_type::<NanobpeError>())?;
    module.add("VocabularySizeError", py.get_type::<VocabularySizeError>())?;
    module.add("PatternError", py.get_type::<PatternError>())?;
    module.add("EmptyCorpusError", py.get_type::<EmptyCorpusError>())?;
    module.add("CorpusTooSmallError", py.get_type::<CorpusTooSmallError>())?;
    module.add("CountsError", py.get_type::<CountsError>())?;
    module.add("TokensError", py.get_type::<TokensError>())?;
    module.add_class::<PyCounts>()?;
    module.add_class::<PyEncoder>()?;
    module.add_class::<PyVocabulary>()?;
    module.add_function(wrap_pyfunction!(count, module)?)?;
    module.add_function(wrap_pyfunction!(learn, module)?)
}

#[pyclass(name = "Encoder", module = "nanobpe", frozen)]
struct PyEncoder {
    encoder: Encoder,
    pattern: String,
    vocab_size: usize,
}

#[pymethods]
impl PyEncoder {
    #[new]
    #[pyo3(signature = (tokens, pattern = GPT4_PATTERN))]
    fn new(py: Python<'_>, tokens: &Bound<'_, PyAny>, pattern: &str) -> PyResult<Self> {
        let bytes = |token: PyResult<Bound<'_, PyAny>>| Ok(token?.cast_into::<PyBytes>()?.as_bytes().to_vec());
        let tokens = tokens.try_iter()?.map(bytes).collect::<PyResult<Vec<_>>>()?;
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
        let py = text.py();
        let text = encodable(text)?;
        let texts = [text.to_str()?];
        let ids = |parts: &Parts<'_>| Python::attach(|py| ids_of(py, parts).map(Bound::unbind));
        Ok(py.detach(|| self.encoder.encode_with(&texts, Some(1), check_signals, ids))??.into_bound(py))
    }

    #[pyo3(signature = (texts, threads = None))]
    fn encode_batch<'py>(
        &self,
        texts: &Bound<'py, PyAny>,
        threads: Option<i64>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        if texts.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err("texts must be an iterable of str, not one str: put it in a list"));
        }
        let py = texts.py();
        let text = |text: PyResult<Bound<'py, PyAny>>| encodable(text?.cast_into::<PyString>()?);
        let texts = texts.try_iter()?.map(text).collect::<PyResult<Vec<_>>>()?;
        let texts = texts.iter().map(|text| text.to_str()).collect::<PyResult<Vec<&str>>>()?;
        let arrays = |parts: &Parts<'_>| -> PyResult<_> {
            Python::attach(|py| Ok((ids_of(py, parts)?.unbind(), offsets_of(py, parts, texts.len())?.unbind())))
        };
        let (ids, offsets) = py.detach(|| self.encoder.encode_with(&texts, threads, check_signals, arrays))??;
        Ok((ids.into_bound(py), offsets.into_bound(py)))
    }
}

fn check_signals() -> PyResult<()> {
    Python::attach(|py| py.check_signals())
}

/// The text, with U+FFFD for surrogates that are not a pair, which have no UTF-8: what tiktoken does.
fn encodable(text: Bound<'_, PyString>) -> PyResult<Bound<'_, PyString>> {
    match text.to_str() {
        Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(text.py()) => {
            let units = text.call_method1("encode", ("utf-16", "surrogatepass"))?;
            Ok(units.call_method1("decode", ("utf-16", "replace"))?.cast_into::<PyString>()?)
        }
        Err(error) => Err(error),
        Ok(_) => Ok(text),
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
