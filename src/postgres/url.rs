//! Checks database URLs before sqlx reads them.
//!
//! sqlx accepts any URL. It ignores the contents of a `jdbc:` URL and connects to its default host, and it misreads a
//! URL with an unencoded `#` or `/`. It keeps the brackets of an IPv6 address, which name lookup rejects, and it
//! refuses a user without a host, although `?host=` may name one. So this module refuses URLs that must be mistakes.
//! Its messages never repeat the URL, which may contain a password. It rewrites the others so that sqlx reads them
//! correctly.

use std::{borrow::Cow, fs, path::PathBuf, str::FromStr};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgSslMode},
};
use url::{Host, ParseError, Url};

/// The correct form of a URL.
const CORRECT_FORM: &str = "write it as postgres://user:password@host:port/database";
/// Replaces a missing host, because a URL with a user must have one. Nobody can own this name (RFC 2606).
const PLACEHOLDER_HOST: &str = "none.invalid";
/// The names of each parameter: Postgres's own first, then sqlx's aliases.
const SSL_MODE: [&str; 2] = ["sslmode", "ssl-mode"];
const SSL_ROOT_CERT: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];
const SSL_CERT: [&str; 2] = ["sslcert", "ssl-cert"];
const SSL_KEY: [&str; 2] = ["sslkey", "ssl-key"];
const UNKNOWN_MODE: &str = "none of disable, allow, prefer, require, verify-ca and verify-full";
/// The other parameters that sqlx knows, except `options[…]`.
const PARAMETERS: [&str; 9] = [
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Why a database URL cannot be used. The message contains no value that could be secret.
#[derive(Debug, thiserror::Error)]
pub enum BadUrl {
    /// It is not a well-formed Postgres URL.
    #[error("{0}")]
    Form(Cow<'static, str>),
    /// A file named in the URL cannot be read.
    #[error("its {parameter} {} cannot be read", path.display())]
    File {
        /// The parameter that names the file.
        parameter: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// sqlx rejects the URL.
    #[error("it cannot be read")]
    Sqlx(#[source] Box<sqlx::Error>),
}

/// Checks a URL without connecting. Returns the names of unknown parameters, which are ignored.
///
/// # Errors
/// When the URL cannot be used. The message says how to correct it.
pub fn check_url(url: &str) -> Result<Vec<String>, BadUrl> {
    let parsed = parse(url)?;
    let options = options(&parsed)?;
    check_certificates(&parsed, options.get_ssl_mode())?;
    let names = parsed.query_pairs().map(|(name, _)| name.into_owned());
    Ok(names.filter(|name| !is_known(name)).collect())
}

/// The connection options of a URL.
pub(super) fn connect_options(url: &str) -> sqlx::Result<PgConnectOptions> {
    parse(url)
        .and_then(|url| options(&url))
        .map_err(|error| sqlx::Error::Configuration(Box::new(error)))
}

/// Parses the URL and refuses mistakes.
fn parse(text: &str) -> Result<Url, BadUrl> {
    let text = text.trim();
    if text.is_empty() {
        return Err(bad("it is empty"));
    }
    if text.starts_with(['"', '\'']) {
        return Err(bad("it is in quotes: remove them"));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(bad(format!("it is not a URL: {CORRECT_FORM}")));
    };
    if scheme.starts_with("jdbc:") {
        return Err(bad(format!(
            "it begins with jdbc:, as URLs of Java's do: {CORRECT_FORM}"
        )));
    }
    if !["postgres", "postgresql"].contains(&scheme) {
        return Err(bad(format!(
            "it does not begin with postgres://: {CORRECT_FORM}"
        )));
    }
    let authority = check_parts(rest)?;
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    if host.contains(',') {
        return Err(bad("it names several hosts: name one"));
    }
    let (before_host, _) = rest.split_at(authority.len() - host.len());
    let no_host = if host.is_empty() || host.starts_with(':') {
        PLACEHOLDER_HOST
    } else {
        ""
    };
    let whole = format!(
        "{scheme}://{before_host}{no_host}{}",
        &rest[before_host.len()..]
    );
    Url::parse(&whole).map_err(|error| match error {
        ParseError::InvalidPort => bad(
            "its port is not a number up to 65535: in a user or a password write %2F for / and %3A for :, and an IPv6 address in \
             brackets",
        ),
        error => bad(format!("it cannot be read ({error}): {CORRECT_FORM}")),
    })
}

/// Refuses mistakes in the separators between the parts of a URL. Returns the part with user, password and host.
fn check_parts(rest: &str) -> Result<&str, BadUrl> {
    if rest.ends_with(['"', '\'']) {
        return Err(bad("it ends with a quote: remove it"));
    }
    if rest.contains('#') {
        return Err(bad("it has a # in it: write %23 for it"));
    }
    let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = before_query.split_once('/').unwrap_or((before_query, ""));
    if database.contains(['/', '@']) {
        return Err(bad(
            "the text after its host is not a database name: in a user, a password or a name, write %2F for / and %40 for @",
        ));
    }
    if query
        .split('&')
        .any(|pair| !pair.is_empty() && !pair.contains('='))
    {
        return Err(bad(
            "it has a parameter without a value: in a user or a password, write %3F for ?",
        ));
    }
    Ok(authority)
}

/// The connection options for sqlx. A host in a parameter overrides the host in the URL, as in psql.
fn options(url: &Url) -> Result<PgConnectOptions, BadUrl> {
    check_values(url)?;
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    let passed_on = pairs
        .iter()
        .filter(|(name, value)| is_known(name) && !names_host(name) && !value.is_empty());
    let mut plain = url.clone();
    plain
        .query_pairs_mut()
        .clear()
        .extend_pairs(passed_on)
        .extend_pairs(host(url).map(|host| ("host", host)));
    PgConnectOptions::from_url(&plain).map_err(|error| BadUrl::Sqlx(Box::new(error)))
}

/// The host, if sqlx would not find it.
fn host(url: &Url) -> Option<String> {
    let named = url
        .query_pairs()
        .filter(|(name, value)| names_host(name) && !value.is_empty())
        .last();
    match (named, url.host()) {
        (Some((_, host)), _) => Some(host.trim_matches(['[', ']']).to_owned()),
        (None, Some(Host::Ipv6(address))) => Some(address.to_string()),
        (None, Some(Host::Domain(PLACEHOLDER_HOST))) => {
            let options = PgConnectOptions::new_without_pgpass();
            // An empty PGHOST names no host.
            let host = Some(options.get_host()).filter(|host| !host.is_empty());
            Some(host.unwrap_or("localhost").to_owned())
        }
        _ => None,
    }
}

/// Checks values that sqlx would ignore or misread.
fn check_values(url: &Url) -> Result<(), BadUrl> {
    let value = |name: &str| {
        url.query_pairs()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value)
    };
    if value("host").is_some_and(|host| host.contains(',')) {
        return Err(bad("it names several hosts: name one"));
    }
    let port = value("port");
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    if url.port() == Some(0) || port.as_deref().is_some_and(|port| !is_port(port)) {
        return Err(bad("its port is not a number from 1 to 65535"));
    }
    if url.port().is_none() && port.is_none() && is_invalid::<u16>("PGPORT") {
        return Err(bad("it names no port, and PGPORT is not a number"));
    }
    let modes = SSL_MODE.map(&value);
    let mut modes = modes.iter().flatten().peekable();
    if modes.peek().is_none() && is_invalid::<PgSslMode>("PGSSLMODE") {
        return Err(bad(format!(
            "it names no sslmode, and PGSSLMODE is {UNKNOWN_MODE}"
        )));
    }
    if modes.any(|mode| mode.parse::<PgSslMode>().is_err()) {
        return Err(bad(format!("its sslmode is {UNKNOWN_MODE}")));
    }
    Ok(())
}

/// Checks the files of certificates and keys that the connection will need.
fn check_certificates(url: &Url, mode: PgSslMode) -> Result<(), BadUrl> {
    let is_encrypted = !matches!(mode, PgSslMode::Disable | PgSslMode::Allow);
    let is_verified = matches!(mode, PgSslMode::VerifyCa | PgSslMode::VerifyFull);
    if is_verified && let Some(pem) = pem(url, &SSL_ROOT_CERT, "PGSSLROOTCERT")? {
        let mut certificates = CertificateDer::pem_slice_iter(&pem);
        if certificates.next().is_none_or(|first| first.is_err()) {
            return Err(bad(
                "its sslrootcert holds no certificate in the PEM format: it begins with -----BEGIN CERTIFICATE-----",
            ));
        }
    }
    if is_encrypted {
        let certificate = pem(url, &SSL_CERT, "PGSSLCERT")?;
        let key = pem(url, &SSL_KEY, "PGSSLKEY")?;
        if certificate.is_some() != key.is_some() {
            return Err(bad("sslcert and sslkey go together: it has one of them"));
        }
    }
    Ok(())
}

/// The certificate or key that a parameter contains or names, or else the environment variable. `None` if neither is
/// set.
fn pem(url: &Url, names: &[&'static str], variable: &str) -> Result<Option<Vec<u8>>, BadUrl> {
    let pairs = url.query_pairs();
    let value = pairs
        .filter(|(name, value)| names.contains(&&**name) && !value.is_empty())
        .last()
        .map(|(_, value)| value.into_owned())
        .or_else(|| environment(variable));
    match value {
        None => Ok(None),
        // As in sqlx, the value may be the certificate itself.
        Some(text) if text.trim().starts_with("-----BEGIN") => Ok(Some(text.into_bytes())),
        Some(path) => fs::read(&path).map(Some).map_err(|source| BadUrl::File {
            parameter: names[0],
            path: path.into(),
            source,
        }),
    }
}

fn is_known(name: &str) -> bool {
    PARAMETERS.contains(&name)
        || [SSL_MODE.as_slice(), &SSL_ROOT_CERT, &SSL_CERT, &SSL_KEY]
            .concat()
            .contains(&name)
        || name.starts_with("options[")
}

fn names_host(name: &str) -> bool {
    ["host", "hostaddr"].contains(&name)
}

fn bad(why: impl Into<Cow<'static, str>>) -> BadUrl {
    BadUrl::Form(why.into())
}

/// Whether the variable has a value that sqlx would silently ignore.
fn is_invalid<T: FromStr>(variable: &str) -> bool {
    environment(variable).is_some_and(|value| value.parse::<T>().is_err())
}

#[expect(
    clippy::disallowed_methods,
    reason = "these are Postgres's variables, which sqlx reads if the URL does not set a value"
)]
fn environment(variable: &str) -> Option<String> {
    std::env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
}
