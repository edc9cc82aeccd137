//! Signatures of Standard Webhooks 1.0 (<https://www.standardwebhooks.com>): HMAC-SHA256 as `v1`, ed25519 as `v1a`.
//!
//! What is signed is `id.timestamp.body`, the body exactly as it is sent. During a rotation every secret that is valid signs,
//! the newest first, so a receiver that knows any of them accepts.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The shortest and the longest symmetric key, in bytes.
pub const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=75;
/// How far a receiver's clock and the timestamp may be apart, in seconds.
pub const TOLERANCE_S: i64 = 300;

const SYMMETRIC: &str = "whsec_";
const PRIVATE: &str = "whsk_";
const PUBLIC: &str = "whpk_";

/// A secret that signs. It is never printed.
#[derive(Clone)]
pub enum Secret {
    /// A key that both sides know.
    Hmac(Vec<u8>),
    /// A key of which the other side knows the public half.
    Ed25519(Box<SigningKey>),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Secret::Hmac(_) => "Secret(whsec_...)",
            Secret::Ed25519(_) => "Secret(whsk_...)",
        })
    }
}

/// Why a text is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// It begins with none of the known prefixes.
    #[error("a secret begins with whsec_ (symmetric) or whsk_ (ed25519)")]
    Prefix,
    /// What follows is not base64.
    #[error("what follows the prefix is not base64")]
    Base64,
    /// The key is too short or too long.
    #[error("a symmetric key has from 24 to 75 bytes")]
    Length,
    /// The key is no key pair.
    #[error("an ed25519 secret has 64 bytes: the private half, then the public one that belongs to it")]
    KeyPair,
}

impl Secret {
    /// Reads `whsec_...` or `whsk_...`.
    pub fn parse(text: &str) -> Result<Secret, BadSecret> {
        if let Some(rest) = text.strip_prefix(PRIVATE) {
            let bytes = STANDARD.decode(rest).map_err(|_| BadSecret::Base64)?;
            let pair: [u8; 64] = bytes.try_into().map_err(|_| BadSecret::KeyPair)?;
            let key = SigningKey::from_keypair_bytes(&pair).map_err(|_| BadSecret::KeyPair)?;
            return Ok(Secret::Ed25519(Box::new(key)));
        }
        let rest = text.strip_prefix(SYMMETRIC).ok_or(BadSecret::Prefix)?;
        let key = STANDARD.decode(rest).map_err(|_| BadSecret::Base64)?;
        if !KEY_BYTES.contains(&key.len()) {
            return Err(BadSecret::Length);
        }
        Ok(Secret::Hmac(key))
    }

    /// A symmetric secret of these random bytes.
    pub fn of(random: [u8; 32]) -> Secret {
        Secret::Hmac(random.to_vec())
    }

    /// A key pair of these random bytes.
    pub fn pair_of(random: [u8; 32]) -> Secret {
        Secret::Ed25519(Box::new(SigningKey::from_bytes(&random)))
    }

    /// What whoever verifies has to know: the symmetric key (`whsec_...`), or the public half of a pair (`whpk_...`).
    pub fn verifies_with(&self) -> String {
        match self {
            Secret::Hmac(_) => self.reveal(),
            Secret::Ed25519(key) => format!("{PUBLIC}{}", STANDARD.encode(key.verifying_key().to_bytes())),
        }
    }

    /// As the owner of an endpoint is told it, once.
    pub fn reveal(&self) -> String {
        match self {
            Secret::Hmac(key) => format!("{SYMMETRIC}{}", STANDARD.encode(key)),
            Secret::Ed25519(key) => format!("{PRIVATE}{}", STANDARD.encode(key.to_keypair_bytes())),
        }
    }

    /// One entry of the signature header.
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let head = format!("{id}.{timestamp_s}.");
        match self {
            Secret::Hmac(key) => {
                let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
                mac.update(head.as_bytes());
                mac.update(body);
                format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
            }
            Secret::Ed25519(key) => {
                let signature = key.sign(&[head.as_bytes(), body].concat());
                format!("v1a,{}", STANDARD.encode(signature.to_bytes()))
            }
        }
    }
}

/// The signature header: one entry by each secret, in their order.
pub fn signatures(secrets: &[Secret], id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let entries: Vec<String> = secrets.iter().map(|secret| secret.sign(id, timestamp_s, body)).collect();
    entries.join(" ")
}

/// What verifies.
#[derive(Clone, Debug)]
pub enum Verifier {
    /// The key that signed.
    Hmac(Secret),
    /// The public half of it.
    Ed25519(VerifyingKey),
}

impl Verifier {
    /// Reads `whsec_...` or `whpk_...`.
    pub fn parse(text: &str) -> Result<Verifier, BadSecret> {
        let Some(rest) = text.strip_prefix(PUBLIC) else {
            return Secret::parse(text).map(|secret| match secret {
                Secret::Ed25519(key) => Verifier::Ed25519(key.verifying_key()),
                symmetric @ Secret::Hmac(_) => Verifier::Hmac(symmetric),
            });
        };
        let bytes = STANDARD.decode(rest).map_err(|_| BadSecret::Base64)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| BadSecret::KeyPair)?;
        VerifyingKey::from_bytes(&bytes).map(Verifier::Ed25519).map_err(|_| BadSecret::KeyPair)
    }

    /// Whether one of the header's entries is by this key. Entries of unknown versions are passed over.
    fn accepts(&self, id: &str, timestamp: &str, signatures: &str, body: &[u8]) -> bool {
        let head = format!("{id}.{timestamp}.");
        let entries = signatures.split(' ').filter_map(|entry| entry.split_once(','));
        let mut of_version = entries.filter(|(version, _)| match self {
            Verifier::Hmac(_) => *version == "v1",
            Verifier::Ed25519(_) => *version == "v1a",
        });
        of_version.any(|(_, signature)| {
            let Ok(signature) = STANDARD.decode(signature) else { return false };
            match self {
                Verifier::Hmac(Secret::Hmac(key)) => {
                    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
                    mac.update(head.as_bytes());
                    mac.update(body);
                    // compares in constant time
                    mac.verify_slice(&signature).is_ok()
                }
                Verifier::Hmac(Secret::Ed25519(_)) => false,
                Verifier::Ed25519(key) => Signature::from_slice(&signature).is_ok_and(|signature| {
                    key.verify_strict(&[head.as_bytes(), body].concat(), &signature).is_ok()
                }),
            }
        })
    }
}

/// Why a receiver refuses a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A header is missing or empty.
    #[error("webhook-id, webhook-timestamp or webhook-signature is missing")]
    Missing,
    /// The timestamp is not a number of seconds.
    #[error("webhook-timestamp is not a number of seconds")]
    Timestamp,
    /// It was signed too long ago, or is of the future.
    #[error("webhook-timestamp is more than five minutes away")]
    Age,
    /// No entry is by a known key.
    #[error("no signature is by a known key")]
    Signature,
}

/// The headers of a message, as a receiver finds them.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    /// `webhook-id`
    pub id: &'a str,
    /// `webhook-timestamp`
    pub timestamp: &'a str,
    /// `webhook-signature`
    pub signature: &'a str,
}

/// What a receiver does: accepts a message that any of the keys signed not long ago.
pub fn verify(keys: &[Verifier], headers: Headers<'_>, body: &[u8], now_s: i64) -> Result<(), Refused> {
    let Headers { id, timestamp, signature } = headers;
    if id.is_empty() || timestamp.is_empty() || signature.is_empty() {
        return Err(Refused::Missing);
    }
    if !timestamp.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(Refused::Timestamp);
    }
    let signed_at: i64 = timestamp.parse().map_err(|_| Refused::Timestamp)?;
    if now_s.abs_diff(signed_at) > TOLERANCE_S.unsigned_abs() {
        return Err(Refused::Age);
    }
    if keys.iter().any(|key| key.accepts(id, timestamp, signature, body)) {
        Ok(())
    } else {
        Err(Refused::Signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const AT: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const PAIR: &str =
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";

    #[test]
    fn signs_as_other_libraries_do() {
        let sign =
            |secret: &str, id: &str, at, body: &[u8]| Secret::parse(secret).unwrap().sign(id, at, body);
        assert_eq!(sign(SECRET, ID, AT, BODY), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(
            sign(
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                br#"{"email":"test@example.com","username":"test_user"}"#
            ),
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
        );
        assert_eq!(sign(SECRET, ID, AT, b""), "v1,v48jdbgvh29KJz2Qc+ghw8G6vG3nAKnujWBg8oM/62A=");
        assert_eq!(
            sign(SECRET, ID, AT, br#"{"test":2432232314}"#),
            "v1,Vif40peJBP7Iyl0XGmu61n4MwdrcHov5CFREBpE0svs="
        );
        assert_eq!(
            sign(PAIR, ID, AT, BODY),
            "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
        );
        let Secret::Ed25519(pair) = Secret::parse(PAIR).unwrap() else { panic!("a key pair") };
        let public = format!("whpk_{}", STANDARD.encode(pair.verifying_key().as_bytes()));
        assert_eq!(public, "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=");
    }

    #[test]
    fn the_mac_is_that_of_rfc_4231() {
        let mac = |key: &[u8], data: &[u8]| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
            mac.update(data);
            mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        assert_eq!(
            mac(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            mac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    fn check(keys: &[&str], timestamp: &str, signature: &str, now: i64) -> Result<(), Refused> {
        let keys: Vec<Verifier> = keys.iter().map(|key| Verifier::parse(key).unwrap()).collect();
        verify(&keys, Headers { id: ID, timestamp, signature }, BODY, now)
    }

    #[test]
    fn receivers_accept_what_any_known_key_signed_and_nothing_else() {
        let good = Secret::parse(SECRET).unwrap().sign(ID, AT, BODY);
        let at = AT.to_string();
        assert_eq!(check(&[SECRET], &at, &good, AT), Ok(()));
        assert_eq!(check(&[SECRET], &at, &good, AT + 300), Ok(()));
        assert_eq!(check(&[SECRET], &at, &good, AT - 300), Ok(()));
        for away in [AT + 301, AT - 301] {
            assert_eq!(check(&[SECRET], &at, &good, away), Err(Refused::Age));
        }
        for among in [format!("v1,AAAA {good}"), format!("v2,x {good} v1"), format!("nothing {good}")] {
            assert_eq!(check(&[SECRET], &at, &among, AT), Ok(()), "{among}");
        }
        let bare = good.trim_start_matches("v1,");
        for wrong in [bare, &good[..good.len() - 5], &good.replace("v1,", "v2,"), "v1,", "v1a,AAAA"] {
            assert_eq!(check(&[SECRET], &at, wrong, AT), Err(Refused::Signature), "{wrong}");
        }
        for wrong in ["hello", "-1614265330", "1614265330.0", " 1614265330", "99999999999999999999"] {
            assert_eq!(check(&[SECRET], wrong, &good, AT), Err(Refused::Timestamp), "{wrong}");
        }
        assert_eq!(check(&[SECRET], "", &good, AT), Err(Refused::Missing));
        assert_eq!(check(&[SECRET], &at, "", AT), Err(Refused::Missing));
    }

    #[test]
    fn in_a_rotation_either_secret_verifies() {
        let (old, new) = (Secret::parse(SECRET).unwrap(), Secret::of([7; 32]));
        let both = signatures(&[new.clone(), old], ID, AT, BODY);
        for key in [SECRET, &new.reveal()] {
            assert_eq!(check(&[key], &AT.to_string(), &both, AT), Ok(()));
        }
        let pair = Secret::parse(PAIR).unwrap();
        let public = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
        assert_eq!(check(&[public], &AT.to_string(), &pair.sign(ID, AT, BODY), AT), Ok(()));
    }

    #[test]
    fn keys_of_any_allowed_length_and_any_body() {
        let body: Vec<u8> = (0..64 * 1024).map(|i| (i % 251) as u8).collect();
        for length in [24, 32, 63, 64, 65, 75] {
            let secret = format!("whsec_{}", STANDARD.encode(vec![9; length]));
            let signed = Secret::parse(&secret).unwrap().sign("m", 5, &body);
            let headers = Headers { id: "m", timestamp: "5", signature: &signed };
            assert_eq!(verify(&[Verifier::parse(&secret).unwrap()], headers, &body, 5), Ok(()));
            assert_eq!(Secret::parse(&secret).unwrap().reveal(), secret);
        }
    }

    #[test]
    fn what_is_no_secret_says_why() {
        for (text, why) in [
            ("", BadSecret::Prefix),
            ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", BadSecret::Prefix),
            ("whsec_", BadSecret::Length),
            ("whsec_!!", BadSecret::Base64),
            ("whsec_AAAA", BadSecret::Length),
            ("whsk_AAAA", BadSecret::KeyPair),
        ] {
            assert_eq!(Secret::parse(text).unwrap_err(), why, "{text}");
        }
        assert_eq!(format!("{:?}", Secret::of([1; 32])), "Secret(whsec_...)");
    }
}
