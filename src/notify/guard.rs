//! Which addresses may be called: public ones, and the networks that the configuration allows.
//!
//! In: an address that a connection is about to be made to. Out: whether it may be. The deliverer asks at every attempt, for what a
//! name resolves to (the very addresses that are then connected to, so that a name cannot change in between) and for literals,
//! which no resolver sees. IPv4 ranges are those of IANA's special-purpose registry; of IPv6 only global unicast passes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Host;

use crate::domain::WebhookUrl;

/// An address that may not be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address} is {range}, and webhooks.allow_networks does not allow it")]
pub struct Refused {
    /// Which.
    pub address: IpAddr,
    /// What kind of address it is.
    pub range: &'static str,
}

/// Says which addresses may be called. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    allowed: Arc<[IpNet]>,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6(a: u16, b: u16, c: u16, bits: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), bits)
}

/// Narrow ranges before those that they lie in.
const SPECIAL_V4: [(Ipv4Net, &str); 19] = [
    (v4(169, 254, 169, 254, 32), "a cloud's metadata service"),
    (v4(100, 100, 100, 200, 32), "a cloud's metadata service"),
    (v4(168, 63, 129, 16, 32), "a cloud's host"),
    (v4(0, 0, 0, 0, 8), "this machine (unspecified)"),
    (v4(127, 0, 0, 0, 8), "a loopback address"),
    (v4(10, 0, 0, 0, 8), "a private address"),
    (v4(172, 16, 0, 0, 12), "a private address"),
    (v4(192, 168, 0, 0, 16), "a private address"),
    (v4(100, 64, 0, 0, 10), "an address of a carrier's network"),
    (v4(169, 254, 0, 0, 16), "a link-local address"),
    (v4(192, 0, 0, 0, 24), "reserved for protocols"),
    (v4(192, 88, 99, 0, 24), "a 6to4 relay"),
    (v4(192, 0, 2, 0, 24), "reserved for documentation"),
    (v4(198, 51, 100, 0, 24), "reserved for documentation"),
    (v4(203, 0, 113, 0, 24), "reserved for documentation"),
    (v4(198, 18, 0, 0, 15), "reserved for benchmarks"),
    (v4(224, 0, 0, 0, 4), "a multicast address"),
    (v4(255, 255, 255, 255, 32), "the broadcast address"),
    (v4(240, 0, 0, 0, 4), "a reserved address"),
];

const SPECIAL_V6: [(Ipv6Net, &str); 11] = [
    (Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254), 128), "a cloud's metadata service"),
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), "this machine (unspecified)"),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "a loopback address"),
    (v6(0xfc00, 0, 0, 7), "a private address"),
    (v6(0xfe80, 0, 0, 10), "a link-local address"),
    (v6(0xfec0, 0, 0, 10), "a site-local address"),
    (v6(0xff00, 0, 0, 8), "a multicast address"),
    (v6(0x2001, 0, 0, 23), "reserved for protocols"),
    (v6(0x2001, 0x0db8, 0, 32), "reserved for documentation"),
    (v6(0x3fff, 0, 0, 20), "reserved for documentation"),
    (v6(0x2002, 0, 0, 16), "a 6to4 address"),
];

/// The network through which hosts without IPv4 reach it (RFC 6052): what counts is the address inside.
const NAT64: Ipv6Net = v6(0x0064, 0xff9b, 0, 96);
/// The only IPv6 addresses that are assigned to hosts on the public network.
const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 3);

impl Guard {
    /// Lets public addresses pass, and those in these networks.
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed: allowed.into() }
    }

    /// Whether a connection may be made to this address.
    ///
    /// # Errors
    /// [`Refused`] with what kind of address it is.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        // An IPv4 address in IPv6's clothes is connected to as what it is.
        let canonical = address.to_canonical();
        if self.allowed.iter().any(|network| network.contains(&canonical) || network.contains(&address)) {
            return Ok(());
        }
        match special(canonical) {
            Some(range) => Err(Refused { address, range }),
            None => Ok(()),
        }
    }

    /// Whether the host of a URL, if it is a literal address, may be called. Names pass: they are looked at once resolved.
    ///
    /// # Errors
    /// [`Refused`] with what kind of address it is.
    pub fn check_literal(&self, url: &WebhookUrl) -> Result<(), Refused> {
        match url.host() {
            Host::Domain(_) => Ok(()),
            Host::Ipv4(address) => self.check(address.into()),
            Host::Ipv6(address) => self.check(address.into()),
        }
    }
}

/// What is special about an address; `None` for public ones.
fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => SPECIAL_V4.iter().find(|(network, _)| network.contains(&address)).map(|(_, range)| *range),
        IpAddr::V6(address) if NAT64.contains(&address) => {
            let [.., a, b, c, d] = address.octets();
            special(Ipv4Addr::new(a, b, c, d).into())
        }
        IpAddr::V6(address) => {
            let found = SPECIAL_V6.iter().find(|(network, _)| network.contains(&address)).map(|(_, range)| *range);
            found.or_else(|| (!GLOBAL_UNICAST.contains(&address)).then_some("not a public address"))
        }
    }
}

/// Resolves names to the addresses among theirs that may be called. An error when there is none: [`Refused`] for the first.
impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let (mut permitted, mut refused) = (Vec::new(), None);
            // The port stands in the URL; this one is replaced.
            for address in tokio::net::lookup_host((name.as_str(), 0)).await? {
                match guard.check(address.ip()) {
                    Ok(()) => permitted.push(address),
                    Err(why) => refused = refused.or(Some(why)),
                }
            }
            match refused.filter(|_| permitted.is_empty()) {
                Some(why) => Err(why.into()),
                None => Ok(Box::new(permitted.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(address: &str) -> Option<&'static str> {
        Guard::default().check(address.parse().unwrap()).err().map(|refused| refused.range)
    }

    #[test]
    fn public_addresses_pass() {
        for public in ["1.1.1.1", "93.184.215.14", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450:4001::8", "64:ff9b::8.8.8.8"]
        {
            assert_eq!(range(public), None, "{public}");
        }
    }

    #[test]
    fn every_special_range_is_refused_by_its_name() {
        for (address, word) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("10.255.0.1", "private"),
            ("100.64.0.1", "carrier"),
            ("100.127.255.255", "carrier"),
            ("100.100.100.200", "metadata"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("168.63.129.16", "cloud"),
            ("169.254.169.254", "metadata"),
            ("169.254.1.1", "link-local"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.192", "protocols"),
            ("192.0.2.1", "documentation"),
            ("192.88.99.1", "6to4"),
            ("192.168.1.1", "private"),
            ("198.18.0.1", "benchmarks"),
            ("198.19.255.255", "benchmarks"),
            ("198.51.100.1", "documentation"),
            ("203.0.113.1", "documentation"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "broadcast"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::127.0.0.1", "not a public"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:10.0.0.1", "private"),
            ("::ffff:169.254.169.254", "metadata"),
            ("64:ff9b::127.0.0.1", "loopback"),
            ("64:ff9b::10.0.0.1", "private"),
            ("64:ff9b::169.254.169.254", "metadata"),
            ("64:ff9b:1::1", "not a public"),
            ("100::1", "not a public"),
            ("2001::1", "protocols"),
            ("2001:db8::1", "documentation"),
            ("2002:7f00:1::1", "6to4"),
            ("3fff::1", "documentation"),
            ("5f00::1", "not a public"),
            ("fc00::1", "private"),
            ("fd00:ec2::254", "metadata"),
            ("fdff::1", "private"),
            ("fe80::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
        ] {
            assert!(range(address).is_some_and(|range| range.contains(word)), "{address}: {:?}", range(address));
        }
    }

    #[test]
    fn an_allowed_network_is_allowed_in_every_form_of_its_addresses_and_nothing_beside_it_is() {
        let guard = Guard::new(vec!["127.0.0.2/32".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        let passes = |address: &str| guard.check(address.parse().unwrap()).is_ok();
        assert!(passes("127.0.0.2") && passes("::ffff:127.0.0.2") && passes("fd12::1") && passes("1.1.1.1"));
        assert!(!passes("127.0.0.1") && !passes("::ffff:127.0.0.1") && !passes("fc00::1") && !passes("64:ff9b::127.0.0.2"));
    }
}
