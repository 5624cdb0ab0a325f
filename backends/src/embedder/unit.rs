//! Vectors of unit length.

/// Gives a vector unit length; one without a direction gets some.
pub(super) fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        for value in &mut *vector {
            *value = (f64::from(*value) / length) as f32;
        }
    } else if let Some(first) = vector.first_mut() {
        // No direction at all: any is as good, and a vector of length zero would break every search.
        *first = 1.0;
    }
}
