//! Medians, ranges and ratios of what the rounds measured, and how they are written.

/// What the rounds measured of one thing, in their order; NaN where a round had nothing to measure, which counts for nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series(pub(crate) Vec<f64>);

impl Series {
    /// The middle one; of two middle ones their mean.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// The least.
    pub(crate) fn min(&self) -> f64 {
        self.sorted().first().copied().unwrap_or(f64::NAN)
    }

    /// The greatest.
    pub(crate) fn max(&self) -> f64 {
        self.sorted().last().copied().unwrap_or(f64::NAN)
    }

    /// Round by round, this by that.
    pub(crate) fn by(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }

    /// Something made of each.
    pub(crate) fn map(&self, make: impl Fn(f64) -> f64) -> Self {
        Self(self.0.iter().map(|value| make(*value)).collect())
    }

    /// `1.23 (1.20–1.31)`: median, least and greatest.
    pub(crate) fn show(&self) -> String {
        if self.median().is_nan() {
            return "–".to_owned();
        }
        format!(
            "{} ({}–{})",
            number(self.median()),
            number(self.min()),
            number(self.max())
        )
    }

    fn sorted(&self) -> Vec<f64> {
        let measured = self.0.iter().copied().filter(|value| !value.is_nan());
        let mut sorted: Vec<_> = measured.collect();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// Three figures that count, thousands apart.
pub(crate) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    match whole.parse() {
        Ok(whole) => count(whole) + rest,
        Err(_) => text,
    }
}

/// A whole number, thousands apart.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut spaced = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            spaced.push(',');
        }
        spaced.push(digit);
    }
    spaced
}

/// A count as a floating point number: none here is beyond 2^52.
#[allow(clippy::cast_precision_loss, reason = "see above")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// The value below which `share` of the sorted values are.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into a list that is in memory"
    )]
    let index = (float(sorted.len() as u64) * share) as usize;
    sorted
        .get(index.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}
