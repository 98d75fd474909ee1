//! What a process exports as metrics, read back.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// One look at `/metrics`: every line's name with labels, and its value.
#[derive(Clone, Debug, Default)]
pub struct Scrape(BTreeMap<String, f64>);

/// Asks HOST:PORT.
pub async fn of(address: &str) -> Result<Scrape> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let ask = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("the answer has no body")?;
    Ok(Scrape::read(body))
}

impl Scrape {
    /// Reads the text format.
    pub fn read(text: &str) -> Scrape {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.rsplit_once(' '));
        Scrape(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    /// The value under exactly this name with its labels.
    pub fn value(&self, key: &str) -> Option<f64> {
        self.0.get(key).copied()
    }

    /// The sum over all labels of a name; 0 when there is none.
    pub fn sum(&self, name: &str) -> f64 {
        let of_name =
            |key: &str| key == name || key.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
        self.0.iter().filter(|(key, _)| of_name(key)).map(|(_, value)| value).sum()
    }

    /// The bound of the histogram's bucket in which a quantile of what came since an earlier look lies; `None` where
    /// nothing came, or more than the largest bound.
    pub fn quantile_since(&self, before: &Scrape, name: &str, quantile: f64) -> Option<f64> {
        let begin = format!("{name}_bucket{{");
        let mut buckets: BTreeMap<u64, f64> = BTreeMap::new();
        for (key, value) in self.0.iter().filter(|(key, _)| key.starts_with(&begin)) {
            let bound = key.split("le=\"").nth(1)?.split('"').next()?;
            let bound: f64 = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            let since = value - before.0.get(key).copied().unwrap_or(0.0);
            // Positive floats are ordered as their bits are.
            *buckets.entry(bound.to_bits()).or_default() += since;
        }
        let all = *buckets.values().next_back()?;
        let found = buckets.iter().find(|(_, count)| all > 0.0 && **count >= quantile * all)?;
        let bound = f64::from_bits(*found.0);
        bound.is_finite().then_some(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_quantiles_are_read() {
        let text = |n: u32| {
            format!(
                "# HELP x y\nx_total{{a=\"1\"}} {n}\nx_total{{a=\"2\"}} 2\nx_total_more 9\n\
                 h_bucket{{le=\"0.1\"}} {n}\nh_bucket{{le=\"1\"}} {}\nh_bucket{{le=\"+Inf\"}} {}\n",
                n + 9,
                n + 10
            )
        };
        let scrape = Scrape::read(&text(3));
        assert_eq!(scrape.sum("x_total"), 5.0);
        assert_eq!((scrape.value("x_total{a=\"2\"}"), scrape.value("x_total")), (Some(2.0), None));
        let later = Scrape::read(&text(103));
        assert_eq!(later.quantile_since(&scrape, "h", 0.5), Some(0.1));
        assert_eq!(later.quantile_since(&Scrape::default(), "h", 0.95), Some(1.0));
        assert_eq!(later.quantile_since(&Scrape::default(), "h", 1.0), None);
    }
}
