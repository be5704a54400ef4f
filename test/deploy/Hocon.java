import com.typesafe.config.ConfigFactory;
import com.typesafe.config.ConfigRenderOptions;
import java.io.File;

/** Reads HOCON files, later ones over earlier ones, and prints them as JSON. */
class Hocon {
    public static void main(String[] args) {
        var all = ConfigFactory.empty();
        for (String name : args) all = ConfigFactory.parseFile(new File(name)).withFallback(all);
        System.out.println(all.resolve().root().render(ConfigRenderOptions.concise()));
    }
}
