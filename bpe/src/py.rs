//! The face towards Python: counting and learning with the interpreter lock released, and looks for Ctrl-C in between.
//! With `py/` all that knows Python. Does not cover reading files: `_files.py` does.

mod encode;
mod errors;
mod knobs;
mod texts;

use std::path::PathBuf;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};

use crate::count::Counts;
use crate::learn::{TieOrder, Vocabulary};
use crate::{CL100K_PATTERN, Counter, GPT2_PATTERN, GPT4_PATTERN, O200K_PATTERN};
use errors::{NanobpeError, VocabularySizeError, about_file, add_exceptions, signals};
use knobs::{knob, pattern_of, whole};
use texts::{Feed, PyTexts, arrow_texts, json_texts, last_cut_of, plain_texts};

const VOCAB_SIZES: std::ops::RangeInclusive<i64> = 256..=(1 << 31) - 1; // ids have 31 bits

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

    #[getter]
    fn dropped_words(&self) -> u64 {
        self.0.dropped().words
    }

    #[getter]
    fn dropped_occurrences(&self) -> u64 {
        self.0.dropped().occurrences
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
        py.detach(|| self.0.save(&path)).map_err(|error| about_file(error, &path))
    }

    #[staticmethod]
    #[pyo3(signature = (path, *more))]
    fn load(py: Python<'_>, path: PathBuf, more: Vec<PathBuf>) -> PyResult<Self> {
        py.detach(|| Counts::load_all(&path, &more)).map(Self).map_err(|(error, path)| about_file(error, path))
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

    fn ranks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let ranks = PyDict::new(py);
        for (id, token) in self.0.tokens.iter().enumerate() {
            ranks.set_item(PyBytes::new(py, token), id)?;
        }
        Ok(ranks)
    }

    fn __len__(&self) -> usize {
        self.0.tokens.len()
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.0.pattern == other.0.pattern && self.0.tokens == other.0.tokens
    }

    fn __repr__(&self) -> String {
        format!("<nanobpe.Vocabulary of {} tokens>", self.0.tokens.len())
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.0.save(&path)).map_err(|error| about_file(error, &path))
    }

    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| Vocabulary::load(&path)).map(Self).map_err(|error| about_file(error, &path))
    }
}

fn vocab_size_of(value: &Bound<'_, PyAny>) -> PyResult<i64> {
    let refusal = |value: String| {
        let (least, most) = VOCAB_SIZES.into_inner();
        let message = format!("vocab_size={value}: the 256 single bytes are always in; ask for at least {least}");
        VocabularySizeError::new_err(format!("{message} and at most {most}"))
    };
    let size = whole("vocab_size", value, refusal)?;
    if VOCAB_SIZES.contains(&size) { Ok(size) } else { Err(refusal(size.to_string())) }
}

fn tie_order_of(name: &str) -> PyResult<TieOrder> {
    match name {
        "bytes" => Ok(TieOrder::Bytes),
        "byte_level" => Ok(TieOrder::ByteLevel),
        name => Err(NanobpeError::new_err(format!("tie_order={name:?}: give \"bytes\" or \"byte_level\""))),
    }
}

/// `progress` if it can be called, `None` if it is.
fn progress_of<'py>(progress: Option<Bound<'py, PyAny>>) -> PyResult<Option<Bound<'py, PyAny>>> {
    match progress {
        Some(progress) if !progress.is_callable() => {
            let kind = progress.get_type().name()?;
            Err(PyTypeError::new_err(format!("progress must be a callable or None, not {kind}")))
        }
        progress => Ok(progress),
    }
}

#[pyfunction]
#[pyo3(signature = (texts, *, pattern = None, threads = None, max_words = None, progress = None))]
fn count<'py>(
    texts: &Bound<'py, PyAny>,
    pattern: Option<&Bound<'py, PyString>>,
    threads: Option<&Bound<'py, PyAny>>,
    max_words: Option<&Bound<'py, PyAny>>,
    progress: Option<Bound<'py, PyAny>>,
) -> PyResult<PyCounts> {
    let pattern = pattern_of(pattern)?;
    let counter = Counter::new(pattern, knob("threads", threads)?, knob("max_words", max_words)?)?;
    let mut feed = Feed::new(counter, progress_of(progress)?);
    feed.take_all(texts)?;
    let counter = feed.counter;
    Ok(PyCounts(texts.py().detach(|| counter.finish(signals()))?))
}

#[pyfunction]
#[pyo3(signature = (counts, *, vocab_size, tie_order = "bytes", progress = None))]
fn learn<'py>(
    py: Python<'py>,
    counts: &PyCounts,
    vocab_size: &Bound<'py, PyAny>,
    tie_order: &str,
    progress: Option<Bound<'py, PyAny>>,
) -> PyResult<PyVocabulary> {
    let size = vocab_size_of(vocab_size)?;
    let order = tie_order_of(tie_order)?;
    let progress = progress_of(progress)?.map(Bound::unbind);
    let report = |tokens: usize| match &progress {
        Some(progress) => Python::attach(|py| progress.call1(py, ("learn", tokens)).map(drop)),
        None => Ok(()),
    };
    let step = (size / 100) as usize;
    let (mut next_report, mut signals) = (256 + step, signals());
    let check = |tokens: usize| {
        signals()?;
        if tokens >= next_report {
            next_report = tokens + step;
            report(tokens)?;
        }
        Ok::<(), PyErr>(())
    };
    let learnt = py.detach(|| crate::learn(&counts.0, size, order, check))?;
    report(learnt.tokens.len())?;
    Ok(PyVocabulary(learnt))
}

#[pyfunction]
#[allow(clippy::too_many_arguments)]
#[pyo3(signature = (
    texts, *, vocab_size, pattern = None, threads = None, max_words = None, tie_order = "bytes", progress = None
))]
fn train<'py>(
    texts: &Bound<'py, PyAny>,
    vocab_size: &Bound<'py, PyAny>,
    pattern: Option<&Bound<'py, PyString>>,
    threads: Option<&Bound<'py, PyAny>>,
    max_words: Option<&Bound<'py, PyAny>>,
    tie_order: &str,
    progress: Option<Bound<'py, PyAny>>,
) -> PyResult<PyVocabulary> {
    // Refused before any text is read.
    vocab_size_of(vocab_size)?;
    tie_order_of(tie_order)?;
    let counts = count(texts, pattern, threads, max_words, progress.clone())?;
    learn(texts.py(), &counts, vocab_size, tie_order, progress)
}

#[pymodule]
fn _nanobpe(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("CL100K_PATTERN", CL100K_PATTERN)?;
    module.add("GPT2_PATTERN", GPT2_PATTERN)?;
    module.add("GPT4_PATTERN", GPT4_PATTERN)?;
    module.add("O200K_PATTERN", O200K_PATTERN)?;
    add_exceptions(module)?;
    module.add_class::<PyCounts>()?;
    module.add_class::<encode::PyEncoder>()?;
    module.add_class::<PyVocabulary>()?;
    module.add_class::<PyTexts>()?;
    module.add_function(wrap_pyfunction!(count, module)?)?;
    module.add_function(wrap_pyfunction!(learn, module)?)?;
    module.add_function(wrap_pyfunction!(train, module)?)?;
    module.add_function(wrap_pyfunction!(arrow_texts, module)?)?;
    module.add_function(wrap_pyfunction!(json_texts, module)?)?;
    module.add_function(wrap_pyfunction!(plain_texts, module)?)?;
    module.add_function(wrap_pyfunction!(last_cut_of, module)?)
}
