//! The address guard: alerts go to servers of the public internet, never to what only this machine's network can reach.
//!
//! An endpoint's URL is chosen by people who are not trusted with that network. So the URL is parsed as browsers do, which turns
//! `127.1` and `0x7f000001` into what they are; names are resolved by us, every address that is not public is dropped, and the
//! address that was looked at is the one that is connected to. That holds for each connection anew.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use url::{Host, Url};

/// The longest URL, in bytes.
const URL_BYTES_MAX: usize = 2_048;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    address: IpAddr,
    bits: u8,
}

impl Net {
    /// Reads `10.0.0.0/8`, `::1/128`, `127.0.0.1`.
    pub fn parse(text: &str) -> Option<Net> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address.parse::<IpAddr>().ok()?, Some(bits.parse().ok()?)),
            None => (text.parse().ok()?, None),
        };
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Net { address, bits })
    }

    fn contains(&self, address: IpAddr) -> bool {
        let same = |a: u128, b: u128, width: u8| {
            self.bits == 0 || (a ^ b) >> (u32::from(width) - u32::from(self.bits)) == 0
        };
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

/// What endpoints may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Without TLS, too.
    pub allows_http: bool,
    /// Ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Addresses that are allowed though they are not public.
    pub allowed: Vec<Net>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { allows_http: false, ports: vec![443..=443], allowed: Vec::new() }
    }
}

/// Why an address is refused. No message tells what would be found there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no URL.
    #[error("not a URL: {0}")]
    Form(String),
    /// It is not https.
    #[error("a URL of an endpoint begins with https://")]
    Scheme,
    /// It has a user or a password.
    #[error("a URL of an endpoint has no user and no password in it")]
    Credentials,
    /// The port is not allowed.
    #[error("port {0} is not allowed; [alerts] ports lists those that are")]
    Port(u16),
    /// The host is not public.
    #[error("{0} is not a public address; [alerts] allowed lists exceptions")]
    Address(String),
    /// The host resolves to no public address.
    #[error("{0} has no public address")]
    Resolved(String),
}

impl Policy {
    /// Checks the URL of an endpoint, as far as that can be done without resolving its name.
    pub fn check(&self, text: &str) -> Result<Url, Refused> {
        if text.len() > URL_BYTES_MAX {
            return Err(Refused::Form(format!("longer than {URL_BYTES_MAX} bytes")));
        }
        let url = Url::parse(text).map_err(|error| Refused::Form(error.to_string()))?;
        match url.scheme() {
            "https" => {}
            "http" if self.allows_http => {}
            _ => return Err(Refused::Scheme),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Credentials);
        }
        let port = url.port_or_known_default().unwrap_or(0);
        if !self.ports.iter().any(|ports| ports.contains(&port)) {
            return Err(Refused::Port(port));
        }
        let refused = |host: &dyn std::fmt::Display| Refused::Address(host.to_string());
        match url.host() {
            Some(Host::Ipv4(address)) if !self.allows(address.into()) => return Err(refused(&address)),
            Some(Host::Ipv6(address)) if !self.allows(address.into()) => return Err(refused(&address)),
            Some(Host::Domain(name)) if is_local(name) && self.allowed.is_empty() => {
                return Err(refused(&name));
            }
            Some(_) => {}
            None => return Err(Refused::Form("no host".to_owned())),
        }
        Ok(url)
    }

    /// Of the addresses that a name has the ones that may be connected to.
    pub fn keep(
        &self,
        name: &str,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Vec<IpAddr>, Refused> {
        let kept: Vec<IpAddr> = addresses.into_iter().filter(|address| self.allows(*address)).collect();
        if kept.is_empty() { Err(Refused::Resolved(name.to_owned())) } else { Ok(kept) }
    }

    /// Whether an address may be connected to.
    pub fn allows(&self, address: IpAddr) -> bool {
        is_public(address) || self.allowed.iter().any(|net| net.contains(address))
    }
}

/// Names that every resolver may answer from its own machine.
fn is_local(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let suffixes = [".localhost", ".local", ".internal", ".home.arpa"];
    name == "localhost" || !name.contains('.') || suffixes.iter().any(|suffix| name.ends_with(suffix))
}

/// IPv4 ranges that are not of the public internet (IANA's special-purpose registry, multicast, reserved).
const PRIVATE_V4: [(Ipv4Addr, u32); 15] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

/// IPv6 ranges within 2000::/3 that are not: Teredo, documentation, 6to4, which embeds IPv4, and documentation again.
const PRIVATE_V6: [(u128, u32); 4] =
    [(0x2001_0000 << 96, 32), (0x2001_0db8 << 96, 32), (0x2002 << 112, 16), (0x3fff << 112, 20)];

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let bits = address.to_bits();
            !PRIVATE_V4.iter().any(|(net, length)| (bits ^ net.to_bits()) >> (32 - length) == 0)
        }
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => is_public(address.into()),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    bits >> 125 == 1 && !PRIVATE_V6.iter().any(|(net, length)| (bits ^ net) >> (128 - length) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Private addresses as those write them who hope that nobody looks.
    const DISGUISES: [&str; 48] = [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://127.0.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://017700000001/",
        "https://0x7F.0.0.0x1/",
        "https://127.0.0.1./",
        "https://①②⑦.0.0.1/",
        "https://127。0。0。1/",
        "https://127.%30.0.1/",
        "https://127.255.255.254/",
        "https://0.0.0.0/",
        "https://0/",
        "https://0x0/",
        "https://10.0.0.1/",
        "https://167772161/",
        "https://10.1/",
        "https://172.16.0.1/",
        "https://172.31.255.255/",
        "https://192.168.1.1/",
        "https://192.168.257/",
        "https://3232235777/",
        "https://169.254.169.254/latest/meta-data/",
        "https://0xa9fea9fe/",
        "https://2852039166/",
        "https://100.64.0.1/",
        "https://198.18.0.1/",
        "https://192.0.0.1/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://[::1]/",
        "https://[::]/",
        "https://[0:0:0:0:0:0:0:1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[::127.0.0.1]/",
        "https://[fc00::1]/",
        "https://[fe80::1]/",
        "https://[ff02::1]/",
        "https://[2001::1]/",
        "https://[2002:7f00:1::]/",
        "https://[64:ff9b::7f00:1]/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://printer.local/",
    ];

    #[test]
    fn private_addresses_are_refused_in_every_disguise() {
        for url in DISGUISES {
            let refused = Policy::default().check(url);
            assert!(matches!(refused, Err(Refused::Address(_))), "{url}: {refused:?}");
        }
    }

    #[test]
    fn only_plain_https_urls_are_endpoints() {
        let check = |url: &str| Policy::default().check(url).map(|_| ());
        assert_eq!(check("https://example.com/hook?x=1"), Ok(()));
        assert_eq!(check("https://93.184.216.34/"), Ok(()));
        assert_eq!(check("https://[2606:2800:220:1::1]/"), Ok(()));
        assert_eq!(check("http://example.com/"), Err(Refused::Scheme));
        assert_eq!(check("file:///etc/passwd"), Err(Refused::Scheme));
        assert_eq!(check("https://u:p@example.com/"), Err(Refused::Credentials));
        assert_eq!(check("https://example.com:6379/"), Err(Refused::Port(6379)));
        assert!(matches!(check("example.com"), Err(Refused::Form(_))));
        assert!(matches!(check("https://"), Err(Refused::Form(_))));
        assert!(matches!(
            check(&format!("https://example.com/{}", "x".repeat(3_000))),
            Err(Refused::Form(_))
        ));
    }

    #[test]
    fn of_a_names_addresses_only_public_ones_are_kept() {
        let addresses =
            |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let policy = Policy::default();
        let kept = policy.keep("x.example", addresses(&["10.0.0.1", "93.184.216.34", "::1"]));
        assert_eq!(kept, Ok(addresses(&["93.184.216.34"])));
        let none = policy.keep("x.example", addresses(&["10.0.0.1", "::ffff:10.0.0.1"]));
        assert_eq!(none, Err(Refused::Resolved("x.example".to_owned())));
    }

    #[test]
    fn exceptions_are_said_and_reach_no_further() {
        let policy = Policy {
            allows_http: true,
            ports: vec![443..=443, 8_080..=8_090],
            allowed: vec![Net::parse("127.0.0.1/32").unwrap()],
        };
        assert!(policy.check("http://127.0.0.1:8080/").is_ok());
        assert!(policy.check("http://127.0.0.2:8080/").is_err());
        assert!(policy.check("http://localhost:8080/").is_ok(), "what it resolves to is looked at then");
        assert_eq!(Net::parse("10.0.0.0/33"), None);
        assert!(Net::parse("0.0.0.0/0").unwrap().contains("1.2.3.4".parse().unwrap()));
    }
}
