//! How long work takes.

use common::rng::Rng;
use common::time::Duration;
use serde::{Deserialize, Deserializer, de};

use super::parse::{out_of_range, time};
use super::workload::WorkloadError;

/// A draw of an exponential distribution is at most so many times its mean (one in ten thousand million is more).
const TAIL_MAX: f64 = 23.0;

/// Where durations come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Distribution {
    /// Always the same.
    Constant(Duration),
    /// Anything between the two, equally likely.
    Uniform(Duration, Duration),
    /// Many short ones and a few long ones, with this mean.
    Exponential(Duration),
    /// One of several, in proportion to the number beside it.
    Mixture(Vec<(u32, Self)>),
}

impl Distribution {
    /// A duration.
    pub fn draw(&self, rng: &mut Rng) -> Duration {
        match self {
            Self::Constant(always) => *always,
            Self::Uniform(low, high) => rng.span(*low, *high),
            Self::Exponential(mean) => mean.mul_f64(exponential(rng)),
            Self::Mixture(of) => {
                let mut left = rng.below(of.iter().map(|(parts, _)| u64::from(*parts)).sum());
                for (parts, distribution) in of {
                    if left < u64::from(*parts) {
                        return distribution.draw(rng);
                    }
                    left -= u64::from(*parts);
                }
                Duration::ZERO
            }
        }
    }

    /// The average.
    #[must_use]
    pub fn mean(&self) -> Duration {
        match self {
            Self::Constant(mean) | Self::Exponential(mean) => *mean,
            Self::Uniform(low, high) => (*low + *high) / 2,
            Self::Mixture(of) => {
                let total: f64 = of.iter().map(|(parts, _)| f64::from(*parts)).sum();
                of.iter().map(|(parts, each)| each.mean().mul_f64(f64::from(*parts) / total)).sum()
            }
        }
    }
}

/// A draw of the exponential distribution of mean 1.
pub(super) fn exponential(rng: &mut Rng) -> f64 {
    // 53 bits, which a `f64` holds exactly; never 0, whose logarithm is infinite.
    let uniform = ((rng.next_u64() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    (-uniform.ln()).clamp(0.0, TAIL_MAX)
}

/// A duration with its unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span(Duration);

impl Span {
    pub(super) fn check(self, key: &str) -> Result<Duration, WorkloadError> {
        time(key, self.0)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Self).map_err(|error| {
            de::Error::custom(format!("`{text}` is no duration like \"1s\" or \"250ms\": {error}"))
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum RawDistribution {
    Constant(Span),
    Uniform(Span, Span),
    Exponential(Span),
    Mixture(Vec<RawPart>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPart {
    parts: u32,
    of: RawDistribution,
}

impl RawDistribution {
    pub(super) fn check(self, key: &str) -> Result<Distribution, WorkloadError> {
        self.check_within(key, true)
    }

    fn check_within(self, key: &str, may_nest: bool) -> Result<Distribution, WorkloadError> {
        Ok(match self {
            Self::Constant(always) => Distribution::Constant(always.check(key)?),
            Self::Uniform(low, high) => {
                let (low, high) = (low.check(key)?, high.check(key)?);
                if high < low {
                    return Err(out_of_range(key, &format!("{low:?} to {high:?}"), "the shorter time first"));
                }
                Distribution::Uniform(low, high)
            }
            Self::Exponential(mean) => Distribution::Exponential(mean.check(key)?),
            Self::Mixture(of) => {
                let total: u64 = of.iter().map(|part| u64::from(part.parts)).sum();
                if !may_nest || total == 0 || of.len() > 100 {
                    let allowed = "up to 100 parts that are no mixtures themselves, not all of them 0";
                    return Err(out_of_range(key, "this mixture", allowed));
                }
                let part = |part: RawPart| Ok((part.parts, part.of.check_within(key, false)?));
                Distribution::Mixture(of.into_iter().map(part).collect::<Result<_, WorkloadError>>()?)
            }
        })
    }
}
