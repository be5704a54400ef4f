import java.io.*;
import java.security.KeyStore;
import java.security.cert.*;

/** Writes the certificates of a PEM file into a key store, as Java wants its list of authorities. */
class Authorities {
    public static void main(String[] args) throws Exception {
        KeyStore store = KeyStore.getInstance("JKS");
        store.load(null, null);
        try (InputStream pem = new BufferedInputStream(new FileInputStream(args[0]))) {
            for (Certificate c : CertificateFactory.getInstance("X.509").generateCertificates(pem)) {
                store.setCertificateEntry("authority-" + store.size(), c);
            }
        }
        try (OutputStream file = new FileOutputStream(args[1])) {
            store.store(file, "changeit".toCharArray());
        }
    }
}
