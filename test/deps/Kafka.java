import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * One node of Kafka with the settings in FOLDER/server.properties; its storage is formatted when it is new, with SCRAM
 * users as further arguments ("SCRAM-SHA-256=[name=…,password=…]"). One JVM does both, which spares the start of another.
 */
class Kafka {
    public static void main(String[] args) throws Exception {
        Path folder = Path.of(args[0]), settings = folder.resolve("server.properties");
        if (!Files.exists(folder.resolve("data").resolve("meta.properties"))) {
            List<String> format = new ArrayList<>(List.of("format", "--cluster-id", "d2F5YmlsbC10ZXN0cy0wMQ", "--config", settings.toString()));
            for (int i = 1; i < args.length; i++) {
                format.addAll(List.of("--add-scram", args[i]));
            }
            int code = kafka.tools.StorageTool.execute(format.toArray(new String[0]), System.out);
            if (code != 0) {
                System.exit(code);
            }
        }
        kafka.Kafka.main(new String[] {settings.toString()});
    }
}
