//! Database URLs, read before sqlx reads them.
//!
//! sqlx takes any URL for one of Postgres's: of `jdbc:` it uses nothing and connects to its default host, and what stands
//! behind an unencoded `#` or `/` it takes for something else. Of an IPv6 address it passes on the brackets, which no name
//! lookup understands, and a user without a host it refuses, although `?host=` may name one. So what cannot be meant is refused
//! here, by a message that never repeats the URL, since passwords stand there; the rest is put in words that sqlx reads rightly.

use std::{borrow::Cow, fs, path::PathBuf, str::FromStr};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgSslMode},
};
use url::{Host, ParseError, Url};

/// How a URL should look.
const FORM: &str = "write it as postgres://user:password@host:port/database";
/// Stands where a URL names no host, since the grammar of URLs wants one behind a user. The name can be nobody's (RFC 2606).
const NO_HOST: &str = "none.invalid";
/// Names of one parameter: Postgres's own first, then those that sqlx takes too.
const SSL_MODE: [&str; 2] = ["sslmode", "ssl-mode"];
const SSL_ROOT_CERT: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];
const SSL_CERT: [&str; 2] = ["sslcert", "ssl-cert"];
const SSL_KEY: [&str; 2] = ["sslkey", "ssl-key"];
const NO_MODE: &str = "none of disable, allow, prefer, require, verify-ca and verify-full";
/// The other parameters that sqlx knows, beside `options[…]`.
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

/// Why a database URL cannot be used. It names no value that could be secret.
#[derive(Debug, thiserror::Error)]
pub enum BadUrl {
    /// It is not written as a URL of Postgres's.
    #[error("{0}")]
    Form(Cow<'static, str>),
    /// A file that it names cannot be read.
    #[error("its {parameter} {} cannot be read", path.display())]
    File {
        /// The parameter that names it.
        parameter: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// sqlx finds another fault.
    #[error("it cannot be read")]
    Sqlx(#[source] Box<sqlx::Error>),
}

/// Checks all of a URL that can be checked without connecting; returns the names of its parameters that are passed over,
/// since nothing here knows them.
///
/// # Errors
/// When it cannot be used: the message says what to write.
pub fn check_url(url: &str) -> Result<Vec<String>, BadUrl> {
    let parsed = parse(url)?;
    let options = options(&parsed)?;
    check_certificates(&parsed, options.get_ssl_mode())?;
    let names = parsed.query_pairs().map(|(name, _)| name.into_owned());
    Ok(names.filter(|name| !is_known(name)).collect())
}

/// How to connect by a URL.
pub(super) fn connect_options(url: &str) -> sqlx::Result<PgConnectOptions> {
    parse(url)
        .and_then(|url| options(&url))
        .map_err(|error| sqlx::Error::Configuration(Box::new(error)))
}

/// The URL with nothing in it that can only be a mistake.
fn parse(text: &str) -> Result<Url, BadUrl> {
    let text = text.trim();
    if text.is_empty() {
        return Err(bad("it is empty"));
    }
    if text.starts_with(['"', '\'']) {
        return Err(bad("it stands in quotes: leave them out"));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(bad(format!("it is no URL: {FORM}")));
    };
    if scheme.starts_with("jdbc:") {
        return Err(bad(format!(
            "it begins with jdbc:, as URLs of Java's do: {FORM}"
        )));
    }
    if !["postgres", "postgresql"].contains(&scheme) {
        return Err(bad(format!("it does not begin with postgres://: {FORM}")));
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
        NO_HOST
    } else {
        ""
    };
    let whole = format!(
        "{scheme}://{before_host}{no_host}{}",
        &rest[before_host.len()..]
    );
    Url::parse(&whole).map_err(|error| match error {
        ParseError::InvalidPort => bad(
            "its port is no number up to 65535: in a user or a password write %2F for / and %3A for :, and an IPv6 address in \
             brackets",
        ),
        error => bad(format!("it cannot be read ({error}): {FORM}")),
    })
}

/// What stands between the parts of a URL and can only be a mistake; returns what names user, password and host.
fn check_parts(rest: &str) -> Result<&str, BadUrl> {
    if rest.ends_with(['"', '\'']) {
        return Err(bad("it ends with a quote: leave it out"));
    }
    if rest.contains('#') {
        return Err(bad("it has a # in it: write %23 for it"));
    }
    let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = before_query.split_once('/').unwrap_or((before_query, ""));
    if database.contains(['/', '@']) {
        return Err(bad(
            "what follows its host is no name of a database: in a user, a password or a name write %2F for / and %40 for @",
        ));
    }
    if query
        .split('&')
        .any(|pair| !pair.is_empty() && !pair.contains('='))
    {
        return Err(bad(
            "it has a parameter without a value: in a user or a password write %3F for ?",
        ));
    }
    Ok(authority)
}

/// What the URL says, for sqlx. Where it names a host as a parameter too, that one counts, as for psql.
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

/// The host, where sqlx would not find it by itself.
fn host(url: &Url) -> Option<String> {
    let named = url
        .query_pairs()
        .filter(|(name, value)| names_host(name) && !value.is_empty())
        .last();
    match (named, url.host()) {
        (Some((_, host)), _) => Some(host.trim_matches(['[', ']']).to_owned()),
        (None, Some(Host::Ipv6(address))) => Some(address.to_string()),
        (None, Some(Host::Domain(NO_HOST))) => {
            let options = PgConnectOptions::new_without_pgpass();
            // An empty PGHOST names none.
            let host = Some(options.get_host()).filter(|host| !host.is_empty());
            Some(host.unwrap_or("localhost").to_owned())
        }
        _ => None,
    }
}

/// What sqlx would not say, or take for something else.
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
        return Err(bad("its port is no number from 1 to 65535"));
    }
    if url.port().is_none() && port.is_none() && is_wrong::<u16>("PGPORT") {
        return Err(bad("it names no port, and PGPORT is no number"));
    }
    let modes = SSL_MODE.map(&value);
    let mut modes = modes.iter().flatten().peekable();
    if modes.peek().is_none() && is_wrong::<PgSslMode>("PGSSLMODE") {
        return Err(bad(format!(
            "it names no sslmode, and PGSSLMODE is {NO_MODE}"
        )));
    }
    if modes.any(|mode| mode.parse::<PgSslMode>().is_err()) {
        return Err(bad(format!("its sslmode is {NO_MODE}")));
    }
    Ok(())
}

/// Files of certificates and keys, where the connection will need them.
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

/// What a parameter holds or names, or in its absence the environment; none: neither is set.
fn pem(url: &Url, names: &[&'static str], variable: &str) -> Result<Option<Vec<u8>>, BadUrl> {
    let pairs = url.query_pairs();
    let value = pairs
        .filter(|(name, value)| names.contains(&&**name) && !value.is_empty())
        .last()
        .map(|(_, value)| value.into_owned())
        .or_else(|| environment(variable));
    match value {
        None => Ok(None),
        // As sqlx has it: the certificate itself.
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

/// Whether the variable is set to something that sqlx would silently pass over.
fn is_wrong<T: FromStr>(variable: &str) -> bool {
    environment(variable).is_some_and(|value| value.parse::<T>().is_err())
}

#[expect(
    clippy::disallowed_methods,
    reason = "variables of Postgres's own, which sqlx reads where a URL says nothing"
)]
fn environment(variable: &str) -> Option<String> {
    std::env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
}
