//! The values of knobs as Python gives them. The core refuses the numbers that it does not take.

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::errors::{NanobpeError, PatternError};
use crate::GPT4_PATTERN;

/// The number that the knob `name` is set to; `refusal` makes the exception for one that has no place in 64 bits.
pub fn whole(name: &str, value: &Bound<'_, PyAny>, refusal: impl FnOnce(String) -> PyErr) -> PyResult<i64> {
    value.extract().map_err(|error: PyErr| match error.is_instance_of::<PyOverflowError>(value.py()) {
        true => refusal(value.to_string()),
        false => PyTypeError::new_err(format!("{name} must be an int, not {}", value.get_type())),
    })
}

/// The value of a knob that may be `None`; the core refuses the numbers that it does not take.
pub fn knob(name: &str, value: Option<&Bound<'_, PyAny>>) -> PyResult<Option<i64>> {
    let refusal =
        |value: String| NanobpeError::new_err(format!("{name}={value}: out of range; leave it out, or give None"));
    value.map(|value| whole(name, value, refusal)).transpose()
}

pub fn pattern_of<'a>(pattern: Option<&'a Bound<'_, PyString>>) -> PyResult<&'a str> {
    let Some(pattern) = pattern else { return Ok(GPT4_PATTERN) };
    pattern.to_str().map_err(|error| PatternError::new_err(format!("pattern: {error}")))
}
