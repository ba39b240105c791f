//! `[pricing]`: what a device-hour costs.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::domain::{Pricing, spec::PROVIDERS};

/// The section.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PricingSection {
    /// Of ISO 4217: `EUR`, `USD`.
    pub currency: Option<String>,
    /// By execution provider: of a core on `cpu` and `openvino`, of the accelerator elsewhere.
    pub per_hour: BTreeMap<String, f64>,
}

impl PricingSection {
    /// The prices; `None` when the section says nothing.
    ///
    /// # Errors
    /// One sentence on what is wrong with the section.
    pub fn pricing(&self) -> Result<Option<Pricing>, String> {
        if *self == Self::default() {
            return Ok(None);
        }
        let currency = self.currency.clone().unwrap_or_default();
        if currency.len() != 3 || !currency.bytes().all(|b| b.is_ascii_uppercase()) {
            return Err(format!("[pricing] currency {currency:?} is no code of three capital letters, such as \"EUR\""));
        }
        if self.per_hour.is_empty() {
            return Err("[pricing] has a currency and no price: write per_hour.cpu = 0.05".to_owned());
        }
        for (provider, price) in &self.per_hour {
            if !PROVIDERS.contains(&provider.as_str()) {
                return Err(format!("[pricing] per_hour: {provider:?} is none of {}", PROVIDERS.join(", ")));
            }
            if !price.is_finite() || *price < 0.0 {
                return Err(format!("[pricing] per_hour.{provider}: {price} is no price"));
            }
        }
        Ok(Some(Pricing { currency, per_hour: self.per_hour.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Result<Option<Pricing>, String> {
        let table: toml::Table = toml.parse().unwrap();
        toml::Value::Table(table).try_into::<PricingSection>().map_err(|e| e.to_string())?.pricing()
    }

    #[test]
    fn prices_are_of_providers_that_there_are_and_in_a_currency() {
        let pricing = read("currency = \"USD\"\nper_hour.cpu = 0.2\nper_hour.cuda = 3").unwrap().unwrap();
        assert_eq!(pricing.cost("cuda", 1800.0), Some(1.5));
        assert_eq!(read("").unwrap(), None);
        for (section, word) in [
            ("per_hour.cpu = 1", "currency"),
            ("currency = \"euro\"\nper_hour.cpu = 1", "EUR"),
            ("currency = \"EUR\"", "no price"),
            ("currency = \"EUR\"\nper_hour.gpu = 1", "none of cpu, cuda"),
            ("currency = \"EUR\"\nper_hour.cpu = -1", "no price"),
            ("currency = \"EUR\"\nper_hour.cpu = nan", "no price"),
            ("curency = \"EUR\"", "unknown field"),
        ] {
            let error = read(section).unwrap_err();
            assert!(error.contains(word), "{section}: {error}");
        }
    }
}
